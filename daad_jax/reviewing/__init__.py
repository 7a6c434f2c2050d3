"""Reviews a folder in the browser: a person decides which images show a defect."""
