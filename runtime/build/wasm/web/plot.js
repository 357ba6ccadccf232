// Lines that scroll: the last `WIDTH` points of several values, drawn when the page is.

const COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#8c564b"];
const POINTS = 300;

/** A canvas with up to eight lines, each value a point. */
export class Plot {
  #canvas; #caption; #title; #names; #rows = []; #waiting = false; #at = 0; #low = Infinity; #high = -Infinity;

  constructor(canvas, caption, title, names) {
    Object.assign(canvas, { width: canvas.clientWidth * devicePixelRatio, height: canvas.height });
    this.#canvas = canvas;
    this.#caption = caption;
    this.#title = title;
    this.#names = names.slice(0, COLOURS.length);
    this.#rows = this.#names.map(() => new Float64Array(POINTS).fill(NaN));
    this.#draw();
  }

  /** One point for each line. */
  add(values) {
    this.#rows.forEach((row, i) => {
      const value = Number(values[i]);
      row[this.#at] = value;
      this.#low = Math.min(this.#low, value);
      this.#high = Math.max(this.#high, value);
    });
    this.#at = (this.#at + 1) % POINTS;
    if (!this.#waiting) requestAnimationFrame(() => this.#draw());
    this.#waiting = true;
  }

  #draw() {
    this.#waiting = false;
    const { width, height } = this.#canvas, pen = this.#canvas.getContext("2d"), last = (this.#at + POINTS - 1) % POINTS;
    const span = this.#high - this.#low || 1, edge = 8 * devicePixelRatio;
    const y = (value) => height - edge - ((value - this.#low) / span) * (height - 2 * edge);
    pen.clearRect(0, 0, width, height);
    pen.lineWidth = 1.5 * devicePixelRatio;
    this.#rows.forEach((row, line) => {
      pen.strokeStyle = COLOURS[line];
      pen.beginPath();
      for (let i = 0; i < POINTS; i++) {
        const value = row[(this.#at + i) % POINTS];
        if (!Number.isNaN(value)) pen.lineTo((i / (POINTS - 1)) * width, y(value));
      }
      pen.stroke();
    });
    const now = this.#names.map((name, i) => `${name} ${number(this.#rows[i][last])}`).join(", ");
    const range = this.#low <= this.#high ? ` · from ${number(this.#low)} to ${number(this.#high)}` : "";
    this.#caption.textContent = `${this.#title}: ${now}${range}`;
  }
}

function number(value) {
  if (Number.isNaN(value)) return "–";
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}
