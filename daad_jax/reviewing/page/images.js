// The images of the review: their scores, labels and marks, and which of them are shown in which order.

export const images = {
  id: [], name: [], score: [], p_value: [], clipped: [], label: [], mark: [], error: [],
  group: [], // numbers; empty if each image is for itself
  changed: new Set(), // the ids of images whose verdict the last calibration has changed
  threshold: 1,
};
const COLUMNS = ["id", "name", "score", "p_value", "clipped", "label", "mark", "error", "group"];
const numberOf = new Map();

export const count = () => images.id.length;
export const find = (id) => numberOf.get(id);
export const isFlagged = (n) => images.score[n] !== null && images.score[n] > images.threshold;

// Takes columns from the server: new images at the end, or all images again.
export function take(rows) {
  if (rows.first === 0) {
    for (const column of COLUMNS) images[column].length = 0;
    numberOf.clear();
  }
  if (rows.first !== count()) return 0;
  for (const column of COLUMNS) for (const value of rows[column] ?? []) images[column].push(value);
  for (let n = rows.first; n < count(); n++) numberOf.set(images.id[n], n);
  return rows.id.length;
}

// What is known of an image: "good", "defect" or "". A mark counts more than the name of the folder.
export function truth(n) {
  const mark = images.mark[n];
  if (mark === "none") return images.label[n];
  return mark === "unsure" ? "" : mark;
}

export function counts() {
  const found = { scored: 0, flagged: 0, good: 0, defect: 0, missed: 0, falseAlarms: 0, marked: 0, markedGood: 0 };
  const groups = new Set(); // of the images that are marked as good
  for (let n = 0; n < count(); n++) {
    if (images.mark[n] !== "none") found.marked++;
    if (images.mark[n] === "good") { found.markedGood++; groups.add(images.group[n]); }
    if (images.score[n] === null) continue;
    found.scored++;
    const flagged = isFlagged(n), known = truth(n);
    if (flagged) found.flagged++;
    if (known === "good") { found.good++; if (flagged) found.falseAlarms++; }
    if (known === "defect") { found.defect++; if (!flagged) found.missed++; }
  }
  return { ...found, markedGroups: groups.size };
}

const SHOWN = {
  all: () => true,
  flagged: isFlagged,
  passed: (n) => images.score[n] !== null && !isFlagged(n),
  missed: (n) => images.score[n] !== null && truth(n) === "defect" && !isFlagged(n),
  false: (n) => truth(n) === "good" && isFlagged(n),
  changed: (n) => images.changed.has(images.id[n]),
  unreadable: (n) => images.score[n] === null,
};
const MARKED = { any: () => true, some: (mark) => mark !== "none" };

// Whether an image passes the filters { show, marked, search }.
export function passes(n, filters) {
  const isMarked = MARKED[filters.marked] ?? ((mark) => mark === filters.marked);
  return SHOWN[filters.show](n) && isMarked(images.mark[n]) && images.name[n].toLowerCase().includes(filters.search);
}

// How likely the verdict is a mistake. Above 0, it contradicts what is known of the image; the more, the
// further the score is from the threshold. Of other images, those close to the threshold come first.
function suspicion(n) {
  const margin = Math.log(Math.max(images.score[n], 1e-12) / Math.max(images.threshold, 1e-12));
  const known = truth(n);
  return known === "good" ? margin : known === "defect" ? -margin : -Math.abs(margin);
}

const ORDERS = {
  // Marked images come last: somebody has decided on them.
  mistakes: (n) => suspicion(n) - (images.mark[n] === "none" ? 0 : 1e6),
  high: (n) => images.score[n],
  low: (n) => -images.score[n],
};

// The numbers of the images to show, in their order.
export function arrange(filters, order) {
  const view = [];
  for (let n = 0; n < count(); n++) if (passes(n, filters)) view.push(n);
  if (ORDERS[order]) {
    const keys = new Float64Array(count()).fill(-Infinity);
    for (const n of view) if (images.score[n] !== null) keys[n] = ORDERS[order](n);
    return view.sort((a, b) => keys[b] - keys[a] || a - b);
  }
  // Ids are digests, so their order has nothing to do with the scores.
  const texts = order === "random" ? images.id : images.name;
  const isLast = (n) => Number(order === "random" && images.score[n] === null);
  return view.sort((a, b) => isLast(a) - isLast(b) || (texts[a] < texts[b] ? -1 : texts[a] > texts[b] ? 1 : 0));
}

// A sentence about an image, for its caption and for screen readers.
export function describe(n) {
  if (images.score[n] === null) return `${images.name[n]}, cannot be read`;
  const parts = [images.name[n], `score ${format(images.score[n])}`, isFlagged(n) ? "flagged" : "not flagged"];
  if (images.mark[n] !== "none") parts.push(`marked ${images.mark[n]}`);
  if (images.label[n]) parts.push(`folder says ${images.label[n]}`);
  return parts.join(", ");
}

export const format = (value) => Number(value).toPrecision(4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
export const percent = (share) => `${(100 * share).toPrecision(share < 0.1 ? 2 : 3).replace(/\.0+$/, "")} %`;
