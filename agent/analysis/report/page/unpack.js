"use strict";
// Reads the numbers that agent/analysis/report/packing.py writes.

/** Decodes `columns` columns of `count` integers: zigzag, seven bits a byte, the lowest first. */
function decode(text, count, columns) {
  const bytes = atob(text);
  let at = 0;
  return Array.from({ length: columns }, () => {
    const found = new Float64Array(count);
    for (let row = 0; row < count; row += 1) {
      let value = 0, scale = 1, byte;
      do {
        byte = bytes.charCodeAt(at);
        at += 1;
        value += (byte & 127) * scale;
        scale *= 128;
      } while (byte & 128);
      found[row] = value % 2 ? -(value + 1) / 2 : value / 2;
    }
    return found;
  });
}

/** Adds up differences in place. */
function accumulate(column) {
  for (let row = 1; row < column.length; row += 1) column[row] += column[row - 1];
  return column;
}

/** Divides rather than multiplies by a step below one, so that 0.1 stays 0.1. */
const scaled = (value, step) => (step < 1 ? value / Math.round(1 / step) : value * step);

/** Returns the points of a line: [{ time (s), value }]. */
function unpackPoints({ count, step, columns }) {
  const [time, value] = decode(columns, count, 2).map(accumulate);
  return Array.from(time, (at, row) => ({ time: at, value: scaled(value[row], step) }));
}

/** Returns candles: [{ time (s), open, high, low, close, volume }]. */
function unpackCandles({ count, step, volume_step: volumeStep, columns }) {
  const [time, opened, body, above, below, volume] = decode(columns, count, 6);
  accumulate(time);
  let before = 0;
  return Array.from(time, (at, row) => {
    const open = before + opened[row], close = open + body[row];
    before = close;
    return {
      time: at,
      open: scaled(open, step),
      high: scaled(Math.max(open, close) + above[row], step),
      low: scaled(Math.min(open, close) - below[row], step),
      close: scaled(close, step),
      volume: scaled(volume[row], volumeStep),
    };
  });
}
