// Which frames of an output come when: after the delay, and at the end of a sequence. Numbers of frames as BUNDLE.md has them.

/** How many frames an output has where the input has `frames`; below 0 where that is. */
function framesOf({ rate: [more, every] }, frames) {
  const periods = Math.floor(frames / every);
  return periods * more + Math.floor(((frames - periods * every) * more) / every);
}

/** Of the frames of one step, those that come after the delay, where `late` frames of the input gave none. */
export function settled(values, tensor, late) {
  const { shape, time, timed } = tensor;
  return timed && time !== null ? cut(values, tensor, framesOf(tensor, late), shape[time]) : values.slice();
}

/** Frames `first` to `stop` of an output, the values of all of them in the order of its shape. */
export function cut(values, { shape, time }, first, stop) {
  const [outer, inner] = around(shape, time), frames = values.length / (outer * inner);
  const result = new values.constructor(outer * (stop - first) * inner);
  for (let o = 0; o < outer; o++) {
    result.set(values.subarray((o * frames + first) * inner, (o * frames + stop) * inner), o * (stop - first) * inner);
  }
  return result;
}

/** Frames, one after the other in time, in one array that has room for them from frame `first` on. */
export function put(room, values, { shape, time }, first) {
  const [outer, inner] = around(shape, time);
  const all = room.length / outer, some = values.length / outer;
  for (let o = 0; o < outer; o++) room.set(values.subarray(o * some, (o + 1) * some), o * all + first * inner);
}

/** The frames of an output in arrays of so many as a step gives, the last one of fewer. */
export function pieces(values, tensor) {
  const { shape, time } = tensor, [outer, inner] = around(shape, time), all = values.length / (outer * inner);
  const at = (piece) => Math.min(all, piece * shape[time]);
  return Array.from({ length: Math.ceil(all / shape[time]) }, (_, i) => cut(values, tensor, at(i), at(i + 1)));
}

/** A tensor of frames as one with an axis of them, the first where a step is one frame. */
export function shapeOver({ shape, time }) { return time === null ? { shape: [1, ...shape], time: 0 } : { shape, time }; }

/** Frames as they lie in the graph, in the order of a snapshot, one frame after the other; or back. */
export function transposed(values, tensor, back = false) {
  const [outer, inner] = around(tensor.shape, tensor.time), frames = values.length / (outer * inner);
  const result = new values.constructor(values.length);
  for (let o = 0; o < outer; o++) {
    for (let frame = 0; frame < frames; frame++) {
      const here = (o * frames + frame) * inner, there = (frame * outer + o) * inner;
      const [from, to] = back ? [there, here] : [here, there];
      result.set(values.subarray(from, from + inner), to);
    }
  }
  return result;
}

/** Which frames of an output, [first, stop), a sequence of `frames` still has to give once its whole steps are fed. */
function left({ chunk, delay }, tensor, frames) {
  const first = framesOf(tensor, Math.max(frames - (frames % chunk) - delay, 0)), { lengths } = tensor;
  if (!lengths.length) return [first, first];
  const rest = frames % lengths.length;
  return [first, Math.max(first, framesOf(tensor, frames - rest) + lengths[rest])];
}

/** How many steps after the whole ones of a sequence of `frames` give what is left. */
export function closingSteps(contract, frames) {
  const { chunk, delay, outputs } = contract, fed = frames - (frames % chunk);
  return Math.max(0, ...outputs.filter(hasFrames).map((tensor) => {
    const [first, stop] = left(contract, tensor, frames), [more, every] = tensor.rate;
    // Frame j of an output is there once the delay and j + 1 of its frames went by.
    return stop > first ? Math.ceil((delay + Math.ceil((stop * every) / more) - fed) / chunk) : 0;
  }));
}

/** Where what is left of a sequence of `frames` stands among the frames of these steps, [first, stop). */
export function leftInSteps(contract, tensor, frames) {
  const [first, stop] = left(contract, tensor, frames), { chunk, delay } = contract;
  const at = first - framesOf(tensor, frames - (frames % chunk) - delay);
  return [at, at + stop - first];
}

export function hasFrames({ timed, time }) { return timed && time !== null; }

function around(shape, time) {
  const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
  return [product(shape.slice(0, time)), product(shape.slice(time + 1))];
}
