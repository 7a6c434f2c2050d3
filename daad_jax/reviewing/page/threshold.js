// The histogram of the scores, and the slider that lies over it. Both have the same logarithmic axis.

import { count, counts, format, images, percent, truth } from "./images.js";

const BARS = 100;
const STEPS = 1000; // of the slider
const TICKS = [[1, 2, 5], [1, 1.2, 1.5, 2, 3, 5, 7], [1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 3, 5, 7, 8, 9, 9.5]];
const FEWEST_LABELS = 3;
const SVG = "http://www.w3.org/2000/svg";
const element = (id) => document.getElementById(id);

export class Threshold {
  // `onMove` is called while the slider moves, `onChange` when it stays.
  constructor({ onMove, onChange }) {
    this.slider = element("slider");
    this.field = element("threshold");
    this.onMove = onMove;
    this.onChange = onChange;
    this.slider.addEventListener("input", () => this.set(this.value(Number(this.slider.value)), false));
    this.slider.addEventListener("change", () => this.onChange());
    this.field.addEventListener("change", () => {
      const value = Number(this.field.value);
      if (this.field.value !== "" && Number.isFinite(value) && value >= 0) { this.set(value); this.onChange(); }
      else this.field.value = format(images.threshold);
    });
    element("reset").addEventListener("click", () => { this.set(this.calibrated); this.onChange(); });
  }

  // Takes over a calibration: its threshold, and what other thresholds promise.
  calibrate(id, calibrated, steps, countsGroups) {
    this.id = id;
    this.calibrated = calibrated;
    this.steps = steps;
    this.countsGroups = countsGroups;
    images.threshold = calibrated;
    this.refresh();
  }

  // Draws everything again, because the scores or the calibration have changed.
  refresh() {
    this.findRange();
    this.drawBars();
    this.set(images.threshold);
  }

  findRange() {
    let low = Infinity, high = 0;
    for (const score of images.score) {
      if (score > 0 && score < low) low = score;
      if (score > high) high = score;
    }
    const all = [low, high, this.calibrated, images.threshold].filter((x) => x > 0 && Number.isFinite(x));
    this.low = Math.log(Math.max(Math.min(...all, 0.9), 1e-4) / 1.05);
    this.high = Math.log(Math.max(...all, 1.1) * 1.05);
  }

  // The place of a score on the axis, 0 to 1.
  place(score) {
    const place = (Math.log(Math.max(score, 1e-12)) - this.low) / (this.high - this.low);
    return Math.min(Math.max(place, 0), 1);
  }

  value(step) {
    return Math.exp(this.low + (step / STEPS) * (this.high - this.low));
  }

  set(value, moveSlider = true) {
    images.threshold = value;
    if (moveSlider) this.slider.value = String(Math.round(STEPS * this.place(value)));
    this.slider.setAttribute("aria-valuetext", `${format(value)}, ${this.promise(value)}`);
    this.field.value = format(value);
    element("reset").disabled = value === this.calibrated;
    this.drawLine();
    this.showCounts();
    this.onMove();
  }

  // What a threshold promises, in words.
  promise(value) {
    const { scores, rates, bounds } = this.steps;
    let first = 0, last = scores.length; // the first score above the value
    while (first < last) {
      const middle = (first + last) >> 1;
      if (scores[middle] <= value) first = middle + 1;
      else last = middle;
    }
    if (!first || rates[first - 1] >= 1) return "nothing: any good image may be flagged";
    return `flags at most ${percent(rates[first - 1])} of good images on average${this.countsGroups ? " over new groups" : ""} ` +
      `(${percent(bounds[first - 1])} with a confidence of 95 %)`;
  }

  showCounts() {
    const found = counts();
    element("flagged").textContent = `${found.flagged} of ${found.scored} images`;
    element("missed-box").hidden = !found.defect;
    element("false-box").hidden = !found.good;
    element("missed").textContent = `${found.missed} of ${found.defect}`;
    element("false").textContent = `${found.falseAlarms} of ${found.good} good images`;
    element("promise").textContent = this.promise(images.threshold);
    element("counts-short").textContent = `${format(images.threshold)}: ${found.flagged} of ${found.scored} flagged`;
    element("export").href =
      `/verdicts.csv?threshold=${encodeURIComponent(images.threshold)}&calibration=${this.id}`;
    this.found = found;
  }

  drawBars() {
    const bars = { free: new Float64Array(BARS), good: new Float64Array(BARS), defect: new Float64Array(BARS) };
    for (let n = 0; n < count(); n++) {
      if (images.score[n] === null) continue;
      const bar = Math.min(BARS - 1, Math.floor(BARS * this.place(images.score[n])));
      bars[truth(n) || "free"][bar]++;
    }
    const totals = Array.from({ length: BARS }, (_, i) => bars.free[i] + bars.good[i] + bars.defect[i]);
    // Square roots, so that a few defects beside thousands of good images can be seen.
    const tallest = Math.sqrt(Math.max(1, ...totals));
    const paths = { good: "", defect: "", free: "" };
    for (let i = 0; i < BARS; i++) {
      if (!totals[i]) continue; // an empty bar
      const height = Math.max(2, (96 * Math.sqrt(totals[i])) / tallest);
      let below = 100;
      for (const kind of ["good", "free", "defect"]) {
        const part = (height * bars[kind][i]) / totals[i];
        if (part) paths[kind] += `M${10 * i + 1} ${below}h8v${-part}h-8z`;
        below -= part;
      }
    }
    const svg = element("histogram");
    svg.replaceChildren();
    this.area = svg.appendChild(shape("rect", { class: "above", y: 0, height: 100 }));
    for (const [kind, path] of Object.entries(paths)) svg.append(shape("path", { class: kind, d: path }));
    this.line = svg.appendChild(shape("path", { class: "line" }));
    this.drawAxis();
  }

  drawLine() {
    const x = 1000 * this.place(images.threshold);
    this.area?.setAttribute("x", x);
    this.area?.setAttribute("width", 1000 - x);
    this.line?.setAttribute("d", `M${x} 0V100`);
  }

  drawAxis() {
    const axis = element("axis");
    for (const ticks of TICKS) {
      axis.replaceChildren(...this.makeLabels(ticks));
      if (axis.childElementCount >= FEWEST_LABELS) return;
    }
  }

  makeLabels(ticks) {
    const labels = [];
    let lastPlace = -1;
    for (let power = -4; power < 9; power++) {
      for (const tick of ticks) {
        const score = tick * 10 ** power, place = this.place(score);
        if (place <= 0 || place >= 1 || place - lastPlace < 0.06) continue;
        lastPlace = place;
        const label = document.createElement("span");
        label.textContent = format(score);
        label.style.left = `${100 * place}%`;
        labels.push(label);
      }
    }
    return labels;
  }
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
