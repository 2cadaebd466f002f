// What the page computes: intervals over new seeds and new items for the seeds that are switched on, as
// analysis/intervals.py makes them, and power laws as analysis/scaling.py does. Values are fractions, or cosines.

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

const variance = (values) => {
  const middle = mean(values);
  return values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1);
};

/** A difference on one set: of `seeds`, places in the list of seeds, those that are chosen. */
function part(difference, seeds) {
  const count = data.seeds.length, k = seeds.length, n = difference.n;
  const place = (i, j) => (i <= j ? i * count - (i * (i - 1)) / 2 + j - i : place(j, i));
  let sum = 0, own = 0;
  for (const i of seeds) for (const j of seeds) {
    sum += difference.c[place(i, j)];
    if (i === j) own += difference.c[place(i, i)];
  }
  const rest = k > 1 ? Math.max(0, own - sum / k) / ((k - 1) * k * n) : 0;
  return { seeds: seeds.map((i) => difference.s[i]), items: Math.max(0, sum / (k * k * n) - rest), n, rest };
}

/** The unweighted mean over sets. */
function average(parts) {
  const count = parts.length;
  return {
    seeds: parts[0].seeds.map((_, i) => mean(parts.map((one) => one.seeds[i]))),
    items: parts.reduce((sum, one) => sum + one.items, 0) / count ** 2,
    n: Math.min(...parts.map((one) => one.n)),
    rest: parts.reduce((sum, one) => sum + one.rest, 0) / count ** 2,
  };
}

function estimate(one, known = data.quantiles) {
  const k = one.seeds.length, value = mean(one.seeds);
  if (k === 1 && one.n < 2) return { value, low: null, high: null, sign: 0 };
  let square = one.n > 1 ? known.items[one.n] ** 2 * one.items : 0;
  if (k > 1) square += Math.max((known.seeds[k - 2] ** 2 * variance(one.seeds)) / k, known.normal ** 2 * one.rest);
  return bounded(value, Math.sqrt(square));
}

/** The mean of one number a seed, with Student's t. */
function overSeeds(values) {
  const k = values.length, value = mean(values);
  if (k < 2) return { value, low: null, high: null, sign: 0 };
  return bounded(value, data.quantiles.seeds[k - 2] * Math.sqrt(variance(values) / k));
}

function bounded(value, half) {
  const low = value - half, high = value + half;
  return { value, low, high, sign: (low > 0 ? 1 : 0) - (high < 0 ? 1 : 0) };
}

/** accuracy = a * pairs^beta, least squares through logarithms, a line a seed; null with fewer than three points. */
function powerLaw(pairs, rows) {
  const kept = pairs.map((_, c) => c).filter((c) => pairs[c] > 0 && rows.every((row) => row[c] > 0));
  if (kept.length < 3) return null;
  const x = kept.map((c) => Math.log(pairs[c])), middle = mean(x);
  const square = x.reduce((sum, one) => sum + (one - middle) ** 2, 0);
  const lines = rows.map((row) => {
    const y = kept.map((c) => Math.log(row[c]));
    const beta = y.reduce((sum, one, c) => sum + one * (x[c] - middle), 0) / square;
    return [beta, mean(y) - beta * middle];
  });
  const beta = overSeeds(lines.map((line) => line[0])), scale = Math.exp(mean(lines.map((line) => line[1])));
  return { beta, betas: lines.map((line) => line[0]), accuracy: (seen) => scale * seen ** beta.value };
}

/** From when on a gain lasts, as analysis/emergence.py: the epoch, and the first and the last that are allowed. */
function onset(epochs, estimates, joint) {
  const since = (these, holds) => {
    let found = null;
    for (let c = epochs.length - 1; c >= 0 && holds(these[c]); c--) found = epochs[c];
    return found;
  };
  const low = since(joint, (one) => one.high === null || one.high > 0);
  const before = epochs.filter((epoch) => low !== null && epoch < low);
  return {
    epoch: since(estimates, (one) => one.value > 0),
    low: before.length ? before[before.length - 1] + 1 : low,
    high: since(estimates, (one) => one.low !== null && one.low > 0),
  };
}

const setOf = Object.fromEntries(data.sets.map((set) => [set.id, set]));
const armOf = Object.fromEntries(data.arms.map((arm) => [arm.name, arm]));
const has = (id, measure) => measure in data.values[data.baseline][id];
const isMargin = (measure) => measure.endsWith("margin");

/** Sets behind a name: all that are counted, a family's, retrieval, or the one. */
function members(group, measure) {
  const all = {
    counted: (set) => set.counted,
    retrieval: (set) => set.task === "retrieval",
  };
  const wanted = group.startsWith("set:")
    ? (set) => set.id === group.slice(4)
    : group.startsWith("family:")
      ? (set) => set.task === "classification" && set.family === group.slice(7)
      : all[group];
  return data.sets.filter((set) => wanted(set) && has(set.id, measure)).map((set) => set.id);
}

/** [seeds chosen][checkpoints] of an arm, the mean over sets. */
function curve(arm, sets, measure, seeds) {
  const rows = sets.map((id) => data.values[arm][id][measure]);
  return seeds.map((seed) => rows[0].map((_, c) => mean(rows.map((row) => row[c][seed]))));
}

/** An arm minus the baseline at common epoch number `c`, or at the end. */
function difference(arm, sets, measure, seeds, c = "end", known = data.quantiles) {
  const found = sets.map((id) => data.differences[arm][id][measure]);
  return estimate(average(found.map((one) => part(c === "end" ? one.end : one.along[c], seeds))), known);
}

/** From when on an arm is ahead over sets. */
function since(arm, sets, measure, seeds) {
  const epochs = armOf[arm].common;
  const each = (known) => epochs.map((_, c) => difference(arm, sets, measure, seeds, c, known));
  return onset(epochs, each(data.quantiles), each(data.joint[epochs.length]));
}

/** How many sets are on which side, by the sign alone. */
function tally(arm, measure, seeds) {
  const signs = members("counted", measure).map((id) => {
    const value = difference(arm, [id], measure, seeds).value;
    return Math.abs(value) > 1e-9 ? Math.sign(value) : 0;
  });
  return { wins: signs.filter((sign) => sign > 0).length, sets: signs.length };
}

const minus = (text) => text.replace("-", "−");

/** A value for readers: accuracies in per cent, cosines as they are. */
function shown(value, measure, digits) {
  return isMargin(measure) ? minus(value.toFixed(digits ?? 4)) : minus((100 * value).toFixed(digits ?? 1));
}

function signed(value, measure) {
  const text = shown(value, measure);
  if (!/[1-9]/.test(text)) return text.replace("−", "");
  return text.startsWith("−") ? text : `+${text}`;
}

function interval(one, measure) {
  return one.low === null ? "" : `[${shown(one.low, measure)}, ${shown(one.high, measure)}]`;
}

function counted(number) {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (number >= size) return `${Number((number / size).toPrecision(3))}${letter}`;
  return `${Number(number.toPrecision(3))}`;
}
