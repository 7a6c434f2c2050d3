// The grid of thumbnails. Only the rows that can be seen exist, so that 50,000 images need no wait.

import { describe, format, images, isFlagged } from "./images.js";

const SYMBOLS = { good: "✓", defect: "✗", unsure: "?", none: "" };
const CAPTION = 40; // pixels
const GAP = 8;
const SPARE_ROWS = 2; // above and below what can be seen

export class Grid {
  // `version` is part of the addresses of pictures, so that another session gets its own.
  constructor(element, version, { onOpen, onSelect }) {
    this.element = element;
    this.space = element.querySelector("#space");
    this.version = version;
    this.onOpen = onOpen;
    this.onSelect = onSelect;
    this.view = [];
    this.selected = 0; // the place in `view`
    this.tiles = new Map(); // place in the view -> element
    this.free = [];
    element.addEventListener("scroll", () => this.drawSoon(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(element);
    this.space.addEventListener("click", (event) => this.clicked(event));
  }

  // Shows these images. The selected one stays, if it is still there and `keep` says so.
  show(view, keep = true) {
    const number = this.view[this.selected];
    this.view = view;
    const place = keep && number !== undefined ? view.indexOf(number) : -1;
    this.selected = Math.max(place, 0);
    for (const place of [...this.tiles.keys()]) this.release(place);
    if (!keep) this.element.scrollTop = 0;
    this.measure();
    this.onSelect(this.number());
  }

  // Adds images at the end, without any move.
  append(numbers) {
    this.view.push(...numbers);
    this.measure();
  }

  number(place = this.selected) {
    return this.view[place];
  }

  measure() {
    const width = this.element.clientWidth - 2 * GAP;
    if (width <= 0) return;
    const least = width < 520 ? 100 : 150;
    this.columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
    this.side = Math.floor((width + GAP) / this.columns) - GAP;
    this.rowHeight = this.side + CAPTION + GAP;
    this.space.style.height = `${Math.ceil(this.view.length / this.columns) * this.rowHeight + GAP}px`;
    this.draw();
  }

  drawSoon() {
    this.waiting ??= requestAnimationFrame(() => { this.waiting = null; this.draw(); });
  }

  draw() {
    if (!this.columns) return;
    const { scrollTop, clientHeight } = this.element;
    const firstRow = Math.max(0, Math.floor(scrollTop / this.rowHeight) - SPARE_ROWS);
    const lastRow = Math.ceil((scrollTop + clientHeight) / this.rowHeight) + SPARE_ROWS;
    const first = firstRow * this.columns, last = Math.min(this.view.length, lastRow * this.columns);
    for (const place of [...this.tiles.keys()]) if (place < first || place >= last) this.release(place);
    for (let place = first; place < last; place++) this.place(place);
    const active = this.tiles.get(this.selected);
    if (active) this.element.setAttribute("aria-activedescendant", active.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  release(place) {
    const tile = this.tiles.get(place);
    tile.firstChild.removeAttribute("src"); // a request that still waits is given up
    tile.hidden = true;
    tile.removeAttribute("id"); // another tile may get it
    tile.removeAttribute("aria-selected");
    this.tiles.delete(place);
    this.free.push(tile);
  }

  place(place) {
    let tile = this.tiles.get(place);
    const number = this.view[place];
    if (!tile) {
      tile = this.free.pop() ?? this.make();
      tile.hidden = false;
      tile.id = `tile-${place}`;
      tile.place = place;
      this.tiles.set(place, tile);
      tile.firstChild.classList.remove("coarse");
      if (images.score[number] !== null) tile.firstChild.src = `/thumbnail/${images.id[number]}?v=${this.version}`;
    }
    const { columns, side, rowHeight } = this;
    tile.style.width = `${side}px`;
    tile.style.transform =
      `translate(${GAP + (place % columns) * (side + GAP)}px, ${GAP + Math.floor(place / columns) * rowHeight}px)`;
    tile.firstChild.style.height = `${side}px`;
    this.fill(tile, number, place);
  }

  make() {
    const tile = document.createElement("div");
    tile.className = "tile";
    tile.setAttribute("role", "option");
    const picture = document.createElement("img");
    picture.alt = "";
    picture.decoding = "async";
    picture.addEventListener("load", () => picture.classList.toggle("coarse", picture.naturalWidth < 100));
    const caption = document.createElement("p");
    const badge = document.createElement("b"), label = document.createElement("i");
    tile.append(picture, caption, badge, label);
    this.space.append(tile);
    return tile;
  }

  fill(tile, number, place) {
    const [, caption, badge, label] = tile.children;
    const mark = images.mark[number], score = images.score[number];
    const name = images.name[number].split("/").pop();
    caption.textContent = score === null ? `cannot be read\n${name}` : `${format(score)}${isFlagged(number) ? " · flagged" : ""}\n${name}`;
    badge.textContent = SYMBOLS[mark];
    label.textContent = images.label[number];
    label.className = images.label[number];
    tile.title = images.error[number] || images.name[number];
    tile.className = `tile ${isFlagged(number) ? "flagged" : ""} ${score === null ? "unreadable" : ""} ${mark}`;
    tile.setAttribute("aria-label", describe(number));
    tile.setAttribute("aria-selected", String(place === this.selected));
    tile.setAttribute("aria-posinset", String(place + 1));
    tile.setAttribute("aria-setsize", String(this.view.length));
  }

  clicked(event) {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    this.select(tile.place);
    this.onOpen();
  }

  select(place) {
    if (!this.view.length) return;
    this.selected = Math.min(Math.max(place, 0), this.view.length - 1);
    const top = Math.floor(this.selected / this.columns) * this.rowHeight;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + this.rowHeight + GAP > scrollTop + clientHeight) {
      this.element.scrollTop = top + this.rowHeight + GAP - clientHeight;
    }
    this.draw();
    this.onSelect(this.number());
  }

  // Handles a key; returns whether it was one of the grid's.
  key(name) {
    const page = this.columns * Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight));
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, PageUp: -page, PageDown: page,
      Home: -this.view.length, End: this.view.length,
    };
    if (!(name in steps)) return false;
    const goal = this.selected + steps[name];
    const isBeyond = goal < 0 || goal >= this.view.length;
    if (!(isBeyond && (name === "ArrowUp" || name === "ArrowDown"))) this.select(goal);
    return true;
  }
}
