// Talks to the server, and shows what went wrong.

const message = document.getElementById("message");
let hideLater = 0;

export class Refusal extends Error {}

// Shows a line at the bottom of the page. A warning stays until the next line.
export function tell(text, isWarning = false) {
  clearTimeout(hideLater);
  message.textContent = text;
  message.className = isWarning ? "warning" : "";
  message.hidden = !text;
  // A dialog covers everything outside of it.
  const open = [...document.querySelectorAll("dialog[open]")].pop();
  (open ?? document.body).append(message);
  if (text && !isWarning) hideLater = setTimeout(() => { message.hidden = true; }, 4000);
}

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, { credentials: "same-origin", ...options });
  } catch {
    throw new Refusal("The review does not answer. Start it again, and open its new address. Saved marks are kept.");
  }
  if (answer.status === 403) {
    throw new Refusal("The review has been started again. Open the new address that it has printed.");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(content.error ?? `The review answers with status ${answer.status}.`);
  return content;
}

export const get = (address) => ask(address, {});

export const post = (address, content) =>
  ask(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
