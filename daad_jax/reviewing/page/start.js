// Puts the page together: loads the images, follows keys and buttons, and saves marks.

import { Grid } from "./grid.js";
import { arrange, count, find, format, images, passes, take } from "./images.js";
import { get, post, tell } from "./server.js";
import { Threshold } from "./threshold.js";
import { Viewer } from "./viewer.js";

const POLL = 700; // milliseconds between two questions about the progress, while images are scored
const IDLE_POLL = 3000; // milliseconds between two questions whether another window has changed something
const LOOK_AGAIN = 1000; // milliseconds after a new order in which a key marks no image of the grid
const MARK_KEYS = { g: "good", d: "defect", u: "unsure" };
const element = (id) => document.getElementById(id);
const filters = () => ({
  show: element("show").value, marked: element("marked").value, search: element("search").value.trim().toLowerCase(),
});

// The token must not stay in the history of the browser; from here on the cookie counts.
history.replaceState(null, "", "/");

let review; // what the server says about the run
let isSaving = false;
let saves = 0; // how often this window has begun or ended to save
let marksSeen = 0; // how many changes of marks, of any window, this one shows
let orderedAt = -Infinity; // when new scores last put another image in the place of the selected one
let isOrderKept = false; // whether new images only come at the end, because the user marks images of the grid
let isScoring = true; // as the last answer said
let news = ""; // about a calibration, until the reader closes the line
let notes = ""; // of the server
let closedNotes = ""; // the reader has seen them
const version = Date.now().toString(36); // pictures of earlier sessions must not come from the browser's cache
const threshold = new Threshold({ onMove: () => moved(), onChange: () => rearrange(true) });
const viewer = new Viewer(version, { onStep: (step) => step_(step), onClose: () => element("grid").focus() });
const grid = new Grid(element("grid"), version, { onOpen: open, onSelect: () => {} });

function moved() {
  grid.draw();
  if (viewer.isOpen) viewer.describe();
  summarise();
}

// Filters and sorts again. The selected image stays selected if `keep` says so.
function rearrange(keep = false) {
  grid.show(arrange(filters(), element("order").value), keep);
  summarise();
}

function summarise() {
  const { marked, markedGood, markedGroups } = threshold.found;
  element("shown").textContent = `${grid.view.length} of ${count()} shown`;
  element("summary").textContent =
    `${review.folder} · calibration ${review.calibration_text} · ${marked} of ${review.total} marked`;
  const good = markedGood === 1 ? "1 image is marked as good" : `${markedGood} images are marked as good`;
  element("calibrate-count").textContent = !images.group.length
    ? `${good}. ${promiseNeeds()} ${review.needed} are needed.`
    : `${good}, in ${markedGroups} group${markedGroups === 1 ? "" : "s"}. Images of one group count as one. ` +
      `${promiseNeeds()} ${review.needed} groups are needed.`;
  element("calibrate-start").disabled = markedGood < 2;
}

const promiseNeeds = () =>
  `To promise at most ${format(100 * review.rate)} % of false alarms with a confidence of 95 %,`;

function open() {
  if (grid.number() !== undefined) viewer.show(grid.number(), grid.number(grid.selected + 1));
}

function step_(step) {
  const goal = grid.selected + step;
  if (goal < 0 || goal >= grid.view.length) { tell(step > 0 ? "This was the last image." : "This is the first image."); return; }
  grid.select(goal);
  if (viewer.isOpen) open();
}

// Does something that the server must confirm. Further keys have no effect until it has answered.
async function save(work) {
  if (isSaving) return;
  isSaving = true;
  saves++;
  document.body.classList.add("saving");
  try {
    await work();
  } catch (error) {
    tell(error.message, true);
    await get(`/api/progress?marks=${marksSeen}`).then(takeMarks, () => {}); // another window may be the cause
  } finally {
    isSaving = false;
    saves++;
    document.body.classList.remove("saving");
  }
}

const mark = (what) => save(async () => {
  const number = viewer.isOpen ? viewer.number : grid.number();
  if (number === undefined) return;
  isOrderKept = true;
  if (!viewer.isOpen && performance.now() - orderedAt < LOOK_AGAIN) {
    orderedAt = -Infinity;
    tell("New scores have just changed the order. Look at the selected image, and press the key again.", true);
    return;
  }
  if (images.score[number] === null) { tell("This image cannot be read, so it cannot be marked.", true); return; }
  // The answer comes when the mark is on the disk. Only then the next image is shown.
  const saved = await post("/api/mark", { id: images.id[number], mark: what, shown: images.mark[number] });
  images.mark[number] = saved.mark;
  noteOwn(saved);
  tell(`${images.name[number]}: ${saved.mark}`);
  afterMark();
  step_(1);
});

const undo = () => save(async () => {
  const undone = await post("/api/undo", { marks: String(marksSeen) });
  if (undone.id === undefined) { tell("There is nothing to undo."); return; }
  noteOwn(undone);
  const number = find(undone.id);
  if (number === undefined) { tell("The mark of an image that is not scored yet is taken back."); return; }
  images.mark[number] = undone.mark;
  const place = grid.view.indexOf(number);
  if (place >= 0) grid.select(place);
  afterMark();
  if (viewer.isOpen && place >= 0) open();
  tell(`${images.name[number]}: ${undone.mark === "none" ? "not marked any more" : undone.mark}`);
});

function afterMark() {
  threshold.drawBars();
  threshold.set(images.threshold);
}

// A change by this window. If another window has made one before it, both come with the next answer.
function noteOwn({ marks }) {
  if (marks === marksSeen + 1) marksSeen = marks;
}

// Shows the marks that were made since the last time, in any window.
function takeMarks({ marks, changes }) {
  marksSeen = marks;
  if (!changes.length) return;
  for (const [id, what] of changes) if (find(id) !== undefined) images.mark[find(id)] = what;
  afterMark();
}

// Another window, or `daad-jax calibrate`, has put another calibration into use. Nothing moves under the eyes of
// the user, and the selected image stays selected.
async function takeCalibration() {
  const before = count(), was = flaggedBefore(before);
  await load();
  const isNow = flaggedBefore(before);
  images.changed = new Set([...was, ...isNow].filter((id) => was.has(id) !== isNow.has(id)));
  appendFrom(before);
  if (viewer.isOpen) open();
  const line = `Calibration ${review.calibration_text} is in use now. It was put into use outside of this window.`;
  tell(line, true);
  const changed = images.changed.size;
  news = `${line} ` +
    (changed ? `${changed} verdict(s) change: Show, “changed by the calibration” lists them.` : "No verdict changes.");
  showNotice();
}

// The ids of the images that the calibrated threshold flags, of those before a number.
function flaggedBefore(end) {
  return new Set(images.id.filter((_, n) => n < end && images.score[n] > threshold.calibrated));
}

// Adds the images from this number on at the end of the grid.
function appendFrom(first) {
  const fresh = [];
  for (let n = first; n < count(); n++) if (passes(n, filters())) fresh.push(n);
  grid.append(fresh);
  summarise();
}

function showNotice() {
  element("notice-text").textContent = [news, notes].filter(Boolean).join(" ");
  element("notice").hidden = !news && (!notes || notes === closedNotes);
}

// Loads what is new since the last time: scores, and what other windows have done. It never ends.
async function follow() {
  if (document.hidden && !isScoring) { setTimeout(follow, IDLE_POLL); return; }
  try {
    const savesBefore = saves;
    const progress = await get(`/api/progress?marks=${marksSeen}`);
    // An answer that is older than a mark of this window would take it back on the page.
    if (!isSaving && saves === savesBefore) {
      takeMarks(progress);
      if (progress.calibration !== review.calibration) await save(takeCalibration);
    }
    isScoring = progress.is_scoring;
    const before = count();
    const rows = progress.done > before ? await get(`/api/images?since=${before}`) : null;
    // While the rows were on their way, another calibration may have been put into use.
    if (rows?.calibration === review.calibration && take(rows)) {
      threshold.refresh();
      // Nothing moves under the eyes of somebody who looks at the images already.
      if (isOrderKept || viewer.isOpen || grid.selected > 0 || grid.element.scrollTop > 0) {
        appendFrom(before);
      } else {
        const selected = grid.number();
        rearrange();
        if (grid.number() !== selected) orderedAt = performance.now();
      }
    }
    element("progress-row").hidden = !progress.is_scoring;
    element("progress").value = count() / Math.max(1, review.total);
    element("progress-text").textContent = `Scoring: ${count()} of ${review.total} images`;
    notes = progress.notes;
    showNotice();
    setTimeout(follow, progress.is_scoring || progress.done > count() ? POLL : IDLE_POLL);
  } catch (error) {
    tell(error.message, true);
    setTimeout(follow, 5 * POLL);
  }
}

// Takes over the run and its calibration, with the scores that all images have by it.
async function load() {
  const [about, rows] = await Promise.all([get("/api/review"), get("/api/images?since=0")]);
  // Between both answers, another calibration may have been put into use.
  if (about.calibration !== rows.calibration) return load();
  review = about;
  take(rows);
  marksSeen = rows.marks;
  document.title = `Review: ${review.run}`;
  element("title").textContent = `Review: ${review.run}`;
  element("calibrate-now").textContent = review.calibration_text;
  element("toggle-reconstruction").hidden = !review.has_reconstruction;
  viewer.calibration = review.calibration;
  threshold.calibrate(review.calibration, review.threshold, review.steps, review.counts_groups);
}

const changeCalibration = (address, content) => save(async () => {
  element("calibrate-result").textContent = "Calibrating…";
  try {
    const result = await post(address, content);
    images.changed = new Set(result.changed);
    await load();
    news = "";
    showNotice();
    rearrange();
    showCalibration(result);
  } catch (error) {
    element("calibrate-result").textContent = error.message;
  }
});

function showCalibration(result) {
  const lines = [
    ...result.lines,
    result.changed.length
      ? `${result.changed.length} verdict(s) change: ${result.flagged_now} image(s) are flagged now, ${result.passed_now} no longer.`
      : "No verdict changes.",
  ];
  element("calibrate-result").replaceChildren(...lines.map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  }));
  element("calibrate-show").hidden = !result.changed.length;
  element("calibrate-back").hidden = false;
  element("calibrate-back").textContent = `Go back to ${result.before_text}`;
  element("calibrate-back").dataset.id = result.before;
}

function connect() {
  const choose = () => { orderedAt = -Infinity; rearrange(); };
  for (const id of ["order", "show", "marked"]) element(id).addEventListener("change", choose);
  element("search").addEventListener("input", choose);
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("undo").addEventListener("click", undo);
  element("viewer-undo").addEventListener("click", undo);
  for (const button of document.querySelectorAll("[data-mark]")) {
    button.addEventListener("click", () => mark(button.dataset.mark));
  }
  for (const id of ["help", "calibrate"]) {
    element(`open-${id}`).addEventListener("click", () => element(id).showModal());
    element(`${id}-close`).addEventListener("click", () => element(id).close());
  }
  element("calibrate-start").addEventListener("click", () => changeCalibration("/api/recalibrate", {
    confidence: element("calibrate-sure").checked ? "0.95" : "",
  }));
  element("calibrate-back").addEventListener("click", (event) => changeCalibration("/api/use", { id: event.target.dataset.id }));
  element("calibrate-show").addEventListener("click", () => {
    element("calibrate").close();
    element("show").value = "changed";
    rearrange();
    element("grid").focus();
  });
  element("notice-close").addEventListener("click", () => {
    news = "";
    closedNotes = notes;
    showNotice();
    element("grid").focus();
  });
  document.addEventListener("keydown", pressed);
}

function pressed(event) {
  const { target, key } = event;
  const isTyping = target.matches("input:not([type=range]), textarea");
  if (event.altKey || event.metaKey || (event.ctrlKey && key !== "z")) return;
  if (isTyping) {
    if (key === "Escape" || key === "Enter") element("grid").focus();
    return;
  }
  if (act(key.length === 1 ? key.toLowerCase() : key, target, event.repeat)) event.preventDefault();
}

// Does what a key stands for; returns whether it stands for something.
function act(key, target, isHeld) {
  const dialog = document.querySelector("dialog[open]");
  if (key === "Escape" && !dialog) { element("grid").focus(); return true; }
  if ((dialog && !viewer.isOpen) || target.matches("select")) return false; // letters choose in a list
  if (key in MARK_KEYS || key === "z") {
    if (!isHeld) key === "z" ? undo() : mark(MARK_KEYS[key]);
    return true;
  }
  const movesItself = target.matches("input[type=range]");
  if (viewer.isOpen) {
    if (key === "ArrowLeft" || key === "ArrowRight") {
      if (movesItself) return false;
      step_(key === "ArrowLeft" ? -1 : 1);
      return true;
    }
    return viewer.key(key);
  }
  const others = {
    "/": () => element("search").focus(), "?": () => element("help").showModal(),
    t: () => { element("threshold-panel").open = true; element("slider").focus(); },
  };
  if (key in others) { others[key](); return true; }
  if (movesItself) return false;
  const isOnGrid = target === element("grid") || target === document.body;
  if (key === "Enter" || key === " ") { if (isOnGrid) open(); return isOnGrid; }
  const isKeyOfGrid = grid.key(key);
  if (isKeyOfGrid) orderedAt = -Infinity; // the user has chosen an image after the new order
  return isKeyOfGrid;
}

try {
  await load();
  connect();
  if (matchMedia("(max-width: 600px)").matches) element("threshold-panel").open = false;
  rearrange();
  element("grid").focus();
  follow();
} catch (error) {
  tell(error.message, true);
}
