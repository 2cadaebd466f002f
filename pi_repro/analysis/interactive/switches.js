// The switches, and what they redraw. Nothing moves by itself.

const form = document.getElementById("switches");
const measureList = document.getElementById("measure"), groupList = document.getElementById("group");

function choices(name) {
  return [...form.querySelectorAll(`input[name=${name}]`)];
}

function option(value, words) {
  return make("option", { value }, words);
}

/** Sets that have the measure: the mean over them first, then families, then each. */
function listGroups(measure, wanted) {
  const having = data.sets.filter((set) => has(set.id, measure));
  const retrieves = having[0].task === "retrieval";
  const means = retrieves ? ["retrieval"] : ["counted", ...data.families.map((family) => `family:${family}`)];
  const kept = means.filter((group) => members(group, measure).length);
  const one = having.map((set) => option(`set:${set.id}`, set.title));
  groupList.replaceChildren(...kept.map((group) => option(group, groupTitle(group))), make("optgroup", { label: "single sets" }, ...one));
  const values = [...groupList.options].map((entry) => entry.value);
  groupList.value = values.includes(wanted) ? wanted : values[0];
}

function current() {
  const arms = choices("arm").filter((box) => box.checked).map((box) => box.value);
  const seeds = choices("seed").map((box, place) => (box.checked ? place : -1)).filter((place) => place >= 0);
  return { arms, seeds, measure: measureList.value, group: groupList.value };
}

function redraw() {
  const on = current();
  for (const row of document.querySelectorAll("[data-arm]")) row.hidden = !on.arms.includes(row.dataset.arm);
  emergence(on);
  differences(on);
  families(on);
  scaling(on);
  retrieval(on);
  sets(on, "table-sets", (set) => set.task === "classification");
  sets(on, "table-retrieval", (set) => set.task === "retrieval");
  const all = data.seeds.length, seeds = on.seeds.length;
  const said = seeds === 1 ? "one seed: intervals cover items alone" : `${seeds} of ${all} seeds`;
  const arms = `${on.arms.length} of ${data.arms.length} arms`;
  document.getElementById("summary").textContent = `${arms}, ${said}, ${data.measures[on.measure]}, ${groupTitle(on.group)}`;
}

/** At least one arm and one seed stay on. */
function changed(event) {
  const box = event.target;
  if (box.type === "checkbox" && !choices(box.name).some((one) => one.checked)) box.checked = true;
  if (box === measureList) listGroups(measureList.value, groupList.value);
  redraw();
}

for (const name of ["arm", "seed"])
  for (const [word, wanted] of [["all", () => true], ["reset", (box) => box.defaultChecked]])
    form.querySelector(`button[name=${name}-${word}]`)?.addEventListener("click", () => {
      choices(name).forEach((box) => (box.checked = wanted(box)));
      redraw();
    });

for (const [id, title] of Object.entries(data.measures)) measureList.append(option(id, title));
measureList.value = "top1";
form.addEventListener("change", changed);
form.addEventListener("submit", (event) => event.preventDefault());
listGroups("top1", `set:${data.headline}`);
if (window.matchMedia("(max-width: 40rem)").matches) form.querySelector("details").open = false;
form.hidden = false;
redraw();
document.documentElement.dataset.ready = "yes";
