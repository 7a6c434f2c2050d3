// One image over the whole page: the image, its heat map or its reconstruction, with zoom.

import { format, images, isFlagged } from "./images.js";

const MAX_ZOOM = 32;
const SWIPE = 60; // pixels
const DWELL = 120; // milliseconds on an image until its heat map is asked for
const element = (id) => document.getElementById(id);

export class Viewer {
  constructor(version, { onStep, onClose }) {
    this.version = version;
    this.dialog = element("viewer");
    this.stage = element("stage");
    this.layers = element("layers");
    this.whole = element("whole");
    this.heat = element("heat");
    this.note = element("stage-note");
    this.onStep = onStep;
    this.showsHeat = true;
    this.showsReconstruction = false;
    this.calibration = "";
    this.pointers = new Map();
    this.whole.addEventListener("load", () => this.loaded());
    this.whole.addEventListener("error", () => this.failed(this.whole));
    this.heat.addEventListener("load", () => { this.heat.hidden = !this.showsHeat; this.note.textContent = ""; });
    this.heat.addEventListener("error", () => this.failed(this.heat));
    this.dialog.addEventListener("close", () => { clearTimeout(this.later); onClose(); });
    element("viewer-close").addEventListener("click", () => this.dialog.close());
    element("previous").addEventListener("click", () => onStep(-1));
    element("next").addEventListener("click", () => onStep(1));
    element("toggle-heat").addEventListener("click", () => this.toggleHeat());
    element("toggle-reconstruction").addEventListener("click", () => this.toggleReconstruction());
    element("opacity").addEventListener("input", (event) => { this.heat.style.opacity = event.target.value / 100; });
    element("zoom-in").addEventListener("click", () => this.zoom(1.5));
    element("zoom-out").addEventListener("click", () => this.zoom(1 / 1.5));
    element("zoom-fit").addEventListener("click", () => this.fit());
    element("zoom-one").addEventListener("click", () => this.zoomTo(1 / devicePixelRatio));
    new ResizeObserver(() => { if (this.isOpen && this.isFitted) this.fit(); }).observe(this.stage);
    this.followPointers();
  }

  get isOpen() {
    return this.dialog.open;
  }

  // Shows an image; `next` is the number of the image that is likely to come then.
  show(number, next) {
    if (!this.isOpen) this.dialog.showModal();
    const isOther = this.number !== number;
    this.number = number;
    this.describe();
    if (!isOther && this.shown === this.calibration) return;
    this.shown = this.calibration;
    this.isFitted = true;
    this.load();
    // Whoever leafs through the images quickly needs no heat maps.
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      if (this.showsHeat && images.score[number] !== null) this.heat.src = this.address("heat");
      if (next === undefined || images.score[next] === null) return;
      new Image().src = this.address("image", next);
      if (this.showsHeat) new Image().src = this.address("heat", next);
    }, DWELL);
  }

  address(kind, number = this.number) {
    return `/${kind}/${images.id[number]}?v=${this.version}-${this.calibration}`;
  }

  load() {
    const isReadable = images.score[this.number] !== null;
    this.layers.hidden = true;
    this.heat.hidden = true;
    this.heat.removeAttribute("src");
    this.note.textContent = isReadable ? "Loading…" : images.error[this.number];
    if (!isReadable) { this.whole.removeAttribute("src"); return; }
    this.whole.src = this.address(this.showsReconstruction ? "reconstruction" : "image");
  }

  loaded() {
    this.layers.hidden = false;
    if (this.isFitted || !this.width) this.fit();
    else this.place();
    this.note.textContent = this.showsHeat && this.heat.hidden ? "Computing the heat map…" : "";
  }

  failed(picture) {
    if (!picture.getAttribute("src")) return;
    this.note.textContent = picture === this.heat
      ? "There is no heat map of this image."
      : "This image cannot be shown. Its file may have been moved or changed.";
  }

  // Writes what is known of the image beside it.
  describe() {
    const n = this.number, score = images.score[n];
    element("viewer-name").textContent = images.name[n];
    const facts = score === null
      ? ["cannot be read"]
      : [
          `score ${format(score)}`,
          isFlagged(n) ? `above the threshold ${format(images.threshold)}: flagged` : "not flagged",
          `p-value ${format(images.p_value[n])}`,
        ];
    if (images.clipped[n]) facts.push("some pixels lie outside the range of the run");
    if (images.label[n]) facts.push(`folder says ${images.label[n]}`);
    element("viewer-facts").textContent = facts.join(" · ");
    this.dialog.classList.toggle("flagged", isFlagged(n));
    for (const button of this.dialog.querySelectorAll("[data-mark]")) {
      button.setAttribute("aria-pressed", String(button.dataset.mark === images.mark[n]));
      button.disabled = score === null;
    }
  }

  toggleHeat() {
    this.showsHeat = !this.showsHeat;
    element("toggle-heat").setAttribute("aria-pressed", String(this.showsHeat));
    if (this.showsHeat && !this.heat.getAttribute("src") && images.score[this.number] !== null) {
      this.note.textContent = "Computing the heat map…";
      this.heat.src = this.address("heat");
    } else {
      this.heat.hidden = !this.showsHeat || !this.heat.complete || !this.heat.naturalWidth;
    }
  }

  toggleReconstruction() {
    if (element("toggle-reconstruction").hidden) return;
    this.showsReconstruction = !this.showsReconstruction;
    element("toggle-reconstruction").setAttribute("aria-pressed", String(this.showsReconstruction));
    if (images.score[this.number] !== null) {
      this.whole.src = this.address(this.showsReconstruction ? "reconstruction" : "image");
    }
  }

  // The scale is pixels of the page for a pixel of the image. A reconstruction has fewer pixels and is shown as
  // large as its image.
  fit() {
    const { naturalWidth: width, naturalHeight: height } = this.whole;
    if (!width) return;
    const { clientWidth, clientHeight } = this.stage;
    const scale = Math.min(clientWidth / width, clientHeight / height);
    this.width = width * scale;
    this.height = height * scale;
    this.fitted = this.width;
    this.x = (clientWidth - this.width) / 2;
    this.y = (clientHeight - this.height) / 2;
    this.isFitted = true;
    this.place();
  }

  zoomTo(scale) {
    this.zoom((this.whole.naturalWidth * scale) / this.width);
  }

  // Zooms, so that the point (x, y) of the stage stays where it is; the middle if it is not given.
  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    if (!this.width) return;
    const least = Math.min(this.fitted, this.whole.naturalWidth / 4);
    const width = Math.min(Math.max(this.width * factor, least), MAX_ZOOM * Math.max(this.fitted, this.whole.naturalWidth));
    const used = width / this.width;
    this.x = x - (x - this.x) * used;
    this.y = y - (y - this.y) * used;
    this.width *= used;
    this.height *= used;
    this.isFitted = false;
    this.place();
  }

  place() {
    // Some of the image always stays in sight.
    const { clientWidth, clientHeight } = this.stage, margin = 40;
    this.x = Math.min(Math.max(this.x, margin - this.width), clientWidth - margin);
    this.y = Math.min(Math.max(this.y, margin - this.height), clientHeight - margin);
    this.layers.style.width = `${this.width}px`;
    this.layers.style.height = `${this.height}px`;
    this.layers.style.transform = `translate(${this.x}px, ${this.y}px)`;
    const isCoarse = !this.showsReconstruction && this.width / this.whole.naturalWidth >= 3;
    this.whole.classList.toggle("coarse", isCoarse);
  }

  // A pointer moves the image, two pointers zoom it, and a swipe over the whole image goes to the next one.
  followPointers() {
    const { stage, pointers } = this;
    const at = (event) => {
      const box = stage.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { x, y } = at(event);
      this.zoom(Math.exp(-event.deltaY / 400), x, y);
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => {
      const { x, y } = at(event);
      if (this.isFitted) this.zoom(4, x, y);
      else this.fit();
    });
    stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      stage.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, at(event));
      if (pointers.size === 1) this.swipe = this.isFitted && event.pointerType === "touch" ? at(event) : null;
      else this.swipe = null;
    });
    stage.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId), now = at(event);
      if (!before) return;
      pointers.set(event.pointerId, now);
      if (pointers.size === 1 && !this.swipe && this.width) {
        this.x += now.x - before.x;
        this.y += now.y - before.y;
        this.isFitted = false;
        this.place();
      } else if (pointers.size === 2) {
        const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
        const distance = (place) => Math.hypot(place.x - other.x, place.y - other.y) || 1;
        this.zoom(distance(now) / distance(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
      }
    });
    const end = (event) => {
      const start = this.swipe, now = at(event);
      pointers.delete(event.pointerId);
      this.swipe = null;
      if (!start || event.type !== "pointerup") return;
      const across = now.x - start.x;
      if (Math.abs(across) > SWIPE && Math.abs(across) > 2 * Math.abs(now.y - start.y)) this.onStep(across < 0 ? 1 : -1);
    };
    stage.addEventListener("pointerup", end);
    stage.addEventListener("pointercancel", end);
  }

  // Handles a key; returns whether it was one of the viewer's.
  key(name) {
    const actions = {
      h: () => this.toggleHeat(), r: () => this.toggleReconstruction(), "+": () => this.zoom(1.5), "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5), 0: () => this.fit(), 1: () => this.zoomTo(1 / devicePixelRatio),
    };
    if (!(name in actions)) return false;
    actions[name]();
    return true;
  }
}
