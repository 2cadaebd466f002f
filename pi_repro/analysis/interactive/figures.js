// The figures, each a function of what is switched on: `on` holds arms, seeds (places), measure and group of sets.

const AFTER = 1.3, BESIDE = 1.14;
const SMALL = { width: 200, height: 165, left: 30, right: 8 };

const groupTitle = (group) =>
  group === "counted"
    ? "mean of all counted sets"
    : group === "retrieval"
      ? "mean of the retrieval sets"
      : group.startsWith("family:")
        ? `mean of ${group.slice(7)}`
        : setOf[group.slice(4)].title;

const unit = (measure) => (isMargin(measure) ? "cosine" : "%");
const others = (on) => on.arms.filter((name) => name !== data.baseline);

/** The x axis of courses: pairs seen, with room on the right for arms that only finetune. */
function alongPairs(arms) {
  const seen = [...new Set(arms.flatMap((name) => (armOf[name].along ? armOf[name].pairs : [])))].filter((p) => p > 0);
  const ends = seen.length ? seen : arms.flatMap((name) => armOf[name].pairs).filter((p) => p > 0);
  const sorted = (ends.length ? ends : [1]).sort((a, b) => a - b);
  const late = arms.filter((name) => !armOf[name].along).length;
  const low = sorted[0], high = sorted[sorted.length - 1], middle = sorted[Math.floor(sorted.length / 2)];
  const wide = high / low;
  const words = [[low, counted(low)]];
  if (middle > low * wide ** 0.25 && middle < high / wide ** 0.3) words.push([middle, counted(middle)]);
  if (high > low) words.push([high, counted(high)]);
  const room = late ? AFTER * BESIDE ** late : 1.08;
  return { low: low / Math.max(1.08, wide ** 0.04), high: high * room, last: high, log: true, ticks: words };
}

/** Courses of a measure over some sets, a panel; with power laws where asked for. */
function courses(title, sets, measure, on, { laws = null, log = false, ...size } = {}) {
  const x = alongPairs(on.arms);
  const factor = isMargin(measure) ? 1 : 100;
  const chance = isMargin(measure) ? null : factor * mean(sets.map((id) => setOf[id].chance[measure]));
  const rows = Object.fromEntries(on.arms.map((arm) => [arm, curve(arm, sets, measure, on.seeds)]));
  const seen = (arm) => armOf[arm].pairs.map((p, c) => [p, c]).filter(([p]) => p > 0);
  const values = on.arms.flatMap((arm) => seen(arm).flatMap(([, c]) => rows[arm].map((row) => factor * row[c])));
  let low = Math.min(...values), high = Math.max(...values);
  if (log) {
    const positive = values.filter((value) => value > 0);
    [low, high] = positive.length ? [Math.min(...positive) * 0.8, Math.max(...positive) * 1.2] : [1, 10];
    if (chance > low / 3) low = Math.min(low, 0.85 * chance);
  } else if (isMargin(measure)) [low, high] = [low - 0.08 * (high - low || 0.01), high + 0.08 * (high - low || 0.01)];
  else [low, high] = [0, Math.max(high, chance) * 1.08 || 1];
  const digits = isMargin(measure) ? Math.max(2, Math.min(4, Math.ceil(1 - Math.log10(high - low)))) : null;
  const format = (at) => (digits ? minus(at.toFixed(digits)) : `${Number(at.toPrecision(3))}`);
  const ends = on.arms.map((arm) => `${arm} ${shown(mean(rows[arm].map((row) => row[row.length - 1])), measure)}`);
  const label = `Against pairs seen. At the end, in ${unit(measure)}: ${ends.join(", ")}.`;
  return panel({ title, label, x, y: { low, high, log, format }, ...size }, (svg, sx, sy) => {
    if (chance !== null && chance >= low && chance <= high)
      svg.append(make("line", { class: "chance", x1: sx(x.low), x2: sx(x.high), y1: sy(chance), y2: sy(chance) }));
    let late = 0;
    for (const arm of on.arms) {
      const along = armOf[arm].along, points = seen(arm);
      const at = (p) => sx(along ? p : x.last * AFTER * BESIDE ** late);
      const middles = points.map(([p, c]) => [p, factor * mean(rows[arm].map((row) => row[c]))]);
      const visible = middles.filter(([, value]) => !log || value > 0);
      const law = laws?.[arm];
      const line = law ? visible.map(([p]) => [at(p), sy(factor * law.accuracy(p))]) : visible.map(([p, v]) => [at(p), sy(v)]);
      if (along && line.length > 1) svg.append(polyline(line, arm));
      for (const row of rows[arm])
        for (const [p, c] of points)
          if (!log || row[c] > 0)
            svg.append(make("path", { class: "seed", d: SHAPES.o(1.6), transform: `translate(${at(p)} ${sy(factor * row[c])})`, style: `fill:${colour(arm)}` }));
      for (const [p, value] of visible)
        svg.append(mark(arm, at(p), sy(value), { hollow: !along, words: `${arm}, ${counted(p)} pairs: ${format(value)} ${unit(measure)}` }));
      if (!along) late++;
    }
  });
}

function emergence(on) {
  const sets = members(on.group, on.measure), title = groupTitle(on.group), name = data.measures[on.measure];
  const left = courses(`${name}, ${unit(on.measure)}`, sets, on.measure, on, { width: 420, height: 260 });
  const rows = [], onsets = [];
  const shownArms = others(on), factor = isMargin(on.measure) ? 1 : 100;
  const x = alongPairs([data.baseline, ...shownArms]);
  const found = shownArms.map((arm) => {
    const epochs = armOf[arm].common;
    const each = epochs.map((epoch, c) => ({ epoch, pairs: armOf[arm].pairs[armOf[arm].epochs.indexOf(epoch)], ...difference(arm, sets, on.measure, on.seeds, c) }));
    if (epochs.length) onsets.push([arm, since(arm, sets, on.measure, on.seeds)]);
    return [arm, armOf[arm].along ? each : [{ epoch: "end", pairs: 0, ...difference(arm, sets, on.measure, on.seeds) }]];
  });
  for (const [arm, each] of found)
    for (const one of each)
      rows.push([arm, `${one.epoch}`, one.epoch === "end" ? "" : counted(one.pairs), signed(one.value, on.measure), interval(one, on.measure)]);
  const inside = found.flatMap(([arm, each]) => (armOf[arm].along ? each.filter((one) => one.pairs > 0) : each));
  const ends = [0, ...inside.flatMap((one) => [one.low ?? one.value, one.high ?? one.value])].map((value) => factor * value);
  const [low, high] = [Math.min(...ends), Math.max(...ends)], pad = 0.06 * (high - low || 1);
  const digits = isMargin(on.measure) ? 3 : null;
  const format = (at) => minus(digits ? at.toFixed(digits) : `${Number(at.toPrecision(3))}`);
  const words = found.map(([arm, each]) => `${arm} ${signed(each[each.length - 1].value, on.measure)} ${interval(each[each.length - 1], on.measure)}`);
  const right = panel(
    { title: `minus ${data.baseline}, ${isMargin(on.measure) ? "cosine" : "percentage points"}`, label: `Difference with 95 % intervals. At the end: ${words.join("; ")}.`, x, y: { low: low - pad, high: high + pad, format }, width: 420, height: 260, zero: true },
    (svg, sx, sy) => {
      let late = 0;
      const along = found.filter(([arm]) => armOf[arm].along);
      for (const [arm, each] of found) {
        const turn = along.findIndex(([name]) => name === arm) - (along.length - 1) / 2;
        const at = (one) => (armOf[arm].along ? sx(one.pairs) + 4.5 * turn : sx(x.last * AFTER * BESIDE ** late));
        const points = armOf[arm].along ? each.filter((one) => one.pairs > 0) : each;
        if (points.length > 1) svg.append(polyline(points.map((one) => [at(one), sy(factor * one.value)]), arm, { opacity: 0.5 }));
        for (const one of points) {
          if (one.low !== null) svg.append(bar(at(one), sy(factor * one.low), at(one), sy(factor * one.high), arm));
          svg.append(mark(arm, at(one), sy(factor * one.value), { hollow: !one.sign, words: `${arm}, epoch ${one.epoch}: ${signed(one.value, on.measure)} ${interval(one, on.measure)}` }));
        }
        if (!armOf[arm].along) late++;
      }
    },
  );
  const lasting = onsets.map(([arm, one]) => {
    const from = one.epoch === null ? "is not above zero at the end" : `is above zero from epoch ${one.epoch} to the end`;
    const known = one.low === null ? "a lasting gain is ruled out" : one.high === null ? `its intervals allow epoch ${one.low} or later, or never` : `its intervals allow epochs ${one.low} to ${one.high}`;
    return make("li", {}, make("b", { class: "arm", style: `color:${colour(arm)}` }, arm), ` ${from}; ${known}.`);
  });
  fill(
    "emergence",
    legend(on.arms, "bars: 95 % interval; filled: it excludes zero; dots: seeds; dashes: chance"),
    make("h3", { class: "set" }, title),
    make("div", { class: "panels wide" }, left, ...(shownArms.length ? [right] : [])),
    make("ul", { class: "onsets" }, ...lasting),
    numbers(`${title}, ${name}, minus ${data.baseline}`, ["arm", "epoch", "pairs", "difference", "95 % interval"], rows),
  );
}

function differences(on) {
  const lines = [];
  for (const family of [...new Set(data.sets.map((set) => set.family))]) {
    const sets = data.sets.filter((set) => set.family === family && has(set.id, on.measure));
    if (sets.length) lines.push(family, ...sets);
  }
  const factor = isMargin(on.measure) ? 1 : 100, shownArms = others(on);
  const found = shownArms.map((arm) => [arm, Object.fromEntries(lines.filter((line) => line.id).map((set) => [set.id, difference(arm, [set.id], on.measure, on.seeds)]))]);
  const all = found.flatMap(([, each]) => Object.values(each).flatMap((one) => [one.low ?? one.value, one.high ?? one.value])).map((value) => Math.abs(factor * value)).sort((a, b) => a - b);
  // A few tiny sets must not flatten all others: what is left of their intervals leaves the axis.
  const reach = Math.max(isMargin(on.measure) ? 0.001 : 0.5, 1.15 * (all[Math.floor(0.85 * (all.length - 1))] ?? 1));
  const width = 430, names = 190, row = 17, height = 30 + row * lines.length;
  const panels = found.map(([arm, each]) => {
    const score = on.measure === "top1" || on.measure === "top5" ? tally(arm, on.measure, on.seeds) : null;
    const ahead = score ? `, ahead on ${score.wins} of ${score.sets} counted sets` : "";
    const sx = straight(-reach, reach, names + 6, width - 8);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${arm} minus ${data.baseline}, set by set${ahead}. The table below holds the numbers.` });
    for (const at of ticks(-reach, reach, 4)) {
      svg.append(make("line", { class: Math.abs(at) < 1e-12 ? "zero" : "grid", x1: sx(at), x2: sx(at), y1: 4, y2: height - 22 }));
      svg.append(make("text", { class: "tick", x: sx(at), y: height - 8, "text-anchor": "middle" }, minus(`${Number(at.toPrecision(2))}`)));
    }
    lines.forEach((line, number) => {
      const y = 14 + row * number;
      if (!line.id) return svg.append(make("text", { class: "group", x: 0, y: y + 4 }, line));
      const one = each[line.id], guess = line.guess ? 0.45 : 1;
      const words = `${line.title}: ${signed(one.value, on.measure)} ${interval(one, on.measure)}`;
      svg.append(make("text", { class: "row", x: names, y: y + 4, "text-anchor": "end", opacity: line.guess ? 0.75 : 1 }, line.title.length > 30 ? `${line.title.slice(0, 29).trimEnd()}…` : line.title, make("title", {}, words)));
      const [low, high] = [factor * (one.low ?? one.value), factor * (one.high ?? one.value)];
      if (low < reach && high > -reach) svg.append(bar(sx(Math.max(low, -reach)), y, sx(Math.min(high, reach)), y, arm, { opacity: guess }));
      for (const [out, end, turn] of [[low < -reach, -reach, 90], [high > reach, reach, -90]])
        if (out) svg.append(make("path", { d: "M-3.5 -3L3.5 -3L0 3Z", transform: `translate(${sx(end)} ${y}) rotate(${turn})`, style: `fill:${colour(arm)}`, opacity: guess }));
      if (Math.abs(factor * one.value) <= reach) {
        const dot = mark(arm, sx(factor * one.value), y, { hollow: !one.sign, words });
        dot.setAttribute("opacity", guess);
        svg.append(dot);
      }
    });
    return make("div", { class: "panel" }, make("h3", {}, make("b", { class: "arm", style: `color:${colour(arm)}` }, arm), ahead), svg);
  });
  const rows = lines.filter((line) => line.id).map((set) => [set.title, ...found.flatMap(([, each]) => [signed(each[set.id].value, on.measure), interval(each[set.id], on.measure)])]);
  fill(
    "differences",
    make("p", { class: "lead" }, `${data.measures[on.measure]}, minus ${data.baseline}, ${isMargin(on.measure) ? "cosine" : "percentage points"}. Filled: the 95 % interval excludes zero. Arrows leave the axis. Faint: no arm can be told from chance.`),
    make("div", { class: "panels wide" }, ...panels),
    numbers(`${data.measures[on.measure]} minus ${data.baseline}, set by set`, ["set", ...shownArms.flatMap((arm) => [arm, "95 % interval"])], rows),
  );
}

function families(on) {
  const grids = [], rows = [];
  for (const measure of ["top1", "top5"]) {
    const panels = [];
    for (const family of data.families) {
      const sets = members(`family:${family}`, measure);
      if (!sets.length) continue;
      const values = Object.fromEntries(on.arms.map((arm) => [arm, curve(arm, sets, measure, on.seeds).map((row) => 100 * row[row.length - 1])]));
      const base = mean(curve(data.baseline, sets, measure, on.seeds).map((row) => 100 * row[row.length - 1]));
      const lifts = Object.fromEntries(others(on).map((arm) => [arm, difference(arm, sets, measure, on.seeds)]));
      const chance = 100 * mean(sets.map((id) => setOf[id].chance[measure]));
      const tops = on.arms.flatMap((arm) => [...values[arm], ...(lifts[arm] ? [base + 100 * (lifts[arm].high ?? lifts[arm].value)] : [])]);
      const title = family, high = Math.max(...tops, chance) * 1.14 || 1;
      const label = on.arms.map((arm) => `${arm} ${mean(values[arm]).toFixed(1)}${lifts[arm] ? ` (${signed(lifts[arm].value, measure)})` : ""}`).join(", ");
      const x = { low: -0.6, high: on.arms.length - 0.4, ticks: [] };
      panels.push(
        panel({ title, label, x, y: { low: 0, high, format: (at) => `${Number(at.toPrecision(3))}` }, ...SMALL }, (svg, sx, sy) => {
          const half = Math.min(24, (sx(1) - sx(0)) * 0.38);
          on.arms.forEach((arm, number) => {
            const middle = mean(values[arm]), lift = lifts[arm], at = sx(number);
            svg.append(make("rect", { x: at - half, width: 2 * half, y: sy(middle), height: sy(0) - sy(middle), style: `fill:${colour(arm)}`, class: "bar" }, make("title", {}, `${arm}: ${middle.toFixed(1)} %`)));
            let top = Math.max(...values[arm]);
            if (lift && lift.low !== null) {
              svg.append(make("line", { class: "ink", x1: at, x2: at, y1: sy(Math.max(0, base + 100 * lift.low)), y2: sy(base + 100 * lift.high) }));
              top = Math.max(top, base + 100 * lift.high);
            }
            for (const value of values[arm]) svg.append(make("path", { class: "dot", d: SHAPES.o(1.7), transform: `translate(${at + half * 0.5} ${sy(value)})` }));
            if (lift && on.arms.length < 7) svg.append(make("text", { class: lift.sign ? "lift sure" : "lift", x: at, y: sy(top) - 4, "text-anchor": "middle" }, signed(lift.value, measure)));
          });
          svg.append(make("line", { class: "chance", x1: sx(x.low), x2: sx(x.high), y1: sy(chance), y2: sy(chance) }));
        }),
      );
      rows.push(...on.arms.map((arm) => [family, data.measures[measure], arm, mean(values[arm]).toFixed(1), lifts[arm] ? signed(lifts[arm].value, measure) : "", lifts[arm] ? interval(lifts[arm], measure) : ""]));
    }
    grids.push(make("h3", { class: "set" }, `${data.measures[measure]}, %`), make("div", { class: "panels small" }, ...panels));
  }
  fill(
    "families",
    legend(on.arms, `numbers: points over ${data.baseline}, bold where the 95 % interval (line) excludes zero; dots: seeds; dashes: chance`),
    ...grids,
    numbers("family means", ["family", "measure", "arm", "%", `minus ${data.baseline}`, "95 % interval"], rows),
  );
}

function scaling(on) {
  const grids = [], rows = [];
  for (const measure of ["top1", "top5"]) {
    const panels = [];
    for (const family of data.families) {
      const sets = members(`family:${family}`, measure);
      if (!sets.length) continue;
      const laws = {};
      const words = make("ul", { class: "fits" });
      const fit = (arm) => (armOf[arm].along ? powerLaw(armOf[arm].pairs, curve(arm, sets, measure, on.seeds)) : null);
      const base = fit(data.baseline);
      for (const arm of on.arms) {
        laws[arm] = arm === data.baseline ? base : fit(arm);
        if (!laws[arm]) continue;
        const { beta, betas } = laws[arm], two = (value) => minus(value.toFixed(2)).replace("−0.00", "0.00");
        const bounds = (one) => (one.low === null ? "" : `[${two(one.low)}, ${two(one.high)}]`);
        const gap = arm !== data.baseline && base ? overSeeds(betas.map((one, i) => one - base.betas[i])) : null;
        words.append(make("li", { style: `color:${colour(arm)}` }, `${arm} β ${two(beta.value)} ${bounds(beta)}`));
        rows.push([family, data.measures[measure], arm, two(beta.value), bounds(beta), gap ? two(gap.value) : "", gap ? bounds(gap) : ""]);
      }
      const one = courses(family, sets, measure, on, { laws, log: true, ...SMALL });
      if (words.childElementCount) one.append(words);
      panels.push(one);
    }
    grids.push(make("h3", { class: "set" }, `${data.measures[measure]}, %`), make("div", { class: "panels small" }, ...panels));
  }
  const header = ["family", "measure", "arm", "β", "95 % interval", `β minus ${data.baseline}'s`, "95 % interval"];
  fill(
    "scaling",
    legend(on.arms, "line: accuracy = a · pairsᵝ; dots: seeds; dashes: chance; hollow: finetuned"),
    ...grids,
    ...(rows.length ? [numbers("exponents", header, rows)] : [make("p", { class: "lead" }, "A power law takes three checkpoints after the start; fewer were kept.")]),
  );
}

function retrieval(on) {
  const nodes = [], rows = [];
  const sets = data.sets.filter((set) => set.task === "retrieval");
  for (const set of sets) {
    const measures = Object.keys(data.measures).filter((measure) => has(set.id, measure));
    nodes.push(make("h3", { class: "set" }, set.title));
    nodes.push(make("div", { class: "panels" }, ...measures.map((measure) => courses(isMargin(measure) ? data.measures[measure] : `${data.measures[measure]}, %`, [set.id], measure, on))));
    for (const measure of measures)
      for (const arm of on.arms) {
        const end = mean(curve(arm, [set.id], measure, on.seeds).map((row) => row[row.length - 1]));
        const gap = arm === data.baseline ? null : difference(arm, [set.id], measure, on.seeds);
        rows.push([set.title, data.measures[measure], arm, shown(end, measure), gap ? signed(gap.value, measure) : "", gap ? interval(gap, measure) : ""]);
      }
  }
  fill("retrieval", legend(on.arms, "dots: seeds; dashes: chance; hollow: finetuned"), ...nodes, numbers("retrieval at the end", ["set", "measure", "arm", "value", `minus ${data.baseline}`, "95 % interval"], rows));
}

/** Table 1 and 2: every set, arms that are switched on. */
function sets(on, id, wanted) {
  const shownArms = others(on), body = [];
  const armHead = (arm) => make("th", { scope: "col" }, make("b", { class: "arm", style: `color:${colour(arm)}` }, arm));
  const head = make("tr", {}, ...["set", "measure", "n", "chance"].map((cell, i) => make("th", { scope: "col", class: i ? null : "text" }, cell)), armHead(data.baseline), ...shownArms.map(armHead));
  let family = null;
  for (const set of data.sets.filter(wanted)) {
    if (set.family !== family) {
      family = set.family;
      body.push(make("tr", { class: "family" }, make("th", { scope: "rowgroup", colspan: `${5 + shownArms.length}` }, family)));
    }
    const measures = Object.keys(data.measures).filter((one) => has(set.id, one));
    const title = make("th", { class: "pin", scope: "rowgroup", rowspan: `${measures.length}` }, set.title, ...(set.guess ? [make("small", {}, "no arm above chance in top-1")] : []));
    measures.forEach((measure, number) => {
      const base = on.seeds.map((seed) => data.values[data.baseline][set.id][measure].at(-1)[seed]);
      const range = base.length > 1 ? `${shown(Math.min(...base), measure)} to ${shown(Math.max(...base), measure)}` : "";
      const gaps = shownArms.map((arm) => {
        const one = difference(arm, [set.id], measure, on.seeds), value = signed(one.value, measure);
        return make("td", {}, one.sign ? make("b", {}, value) : value, make("small", {}, interval(one, measure)));
      });
      const chance = isMargin(measure) ? "—" : shown(set.chance[measure], measure, 2);
      body.push(make("tr", set.guess ? { class: "guess" } : {}, ...(number ? [] : [title]), make("th", { scope: "row", class: "measure" }, data.measures[measure]), make("td", {}, set.n.toLocaleString("en")), make("td", {}, chance), make("td", {}, shown(mean(base), measure), make("small", {}, range)), ...gaps));
    });
  }
  const place = document.getElementById(id);
  if (!place) return;
  const table = place.querySelector("table");
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...body);
}
