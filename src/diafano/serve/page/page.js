/** The page: a form that orders, jobs on their way, the gallery. The server's events tell what changes. */
import { WORDS } from "./words.js";

const $ = (id) => document.getElementById(id);
const form = $("form");
const KEPT = ["prompt", "negative", "size", "count", "steps", "guidance", "seed", "model", "sampler", "schedule", "tileable", "hires", "like"];
const NUMBERS = new Set(["count", "steps", "guidance", "seed", "hires"]);
let words = WORDS.en;
let over = null; // {data, name}: the picture to draw over
let shownPicture = null;
const jobs = new Map();
const seenPictures = new Set();

// ---- words

function speak(language) {
  words = WORDS[language] ?? WORDS.en;
  document.documentElement.lang = language in WORDS ? language : "en";
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = words[one.dataset.text];
  for (const one of document.querySelectorAll("[data-title]")) { one.title = words[one.dataset.title]; one.setAttribute("aria-label", one.title); }
  for (const one of document.querySelectorAll("[data-hint]")) one.placeholder = words[one.dataset.hint];
  for (const one of document.querySelectorAll("option[data-own]")) one.textContent = words.own;
  $("language").value = document.documentElement.lang;
  localStorage.setItem("language", document.documentElement.lang);
  for (const job of jobs.values()) show(job);
}

// ---- asking

async function ask(path, options = {}) {
  const reply = await fetch(path, options);
  const body = reply.status === 204 ? null : await reply.json();
  if (!reply.ok) throw Object.assign(new Error(body?.error ?? reply.statusText), { field: body?.field });
  return body;
}

const send = (path, body) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

function said() {
  const settings = {};
  for (const name of KEPT) {
    const value = form.elements[name].value.trim();
    if (value !== "" && name !== "prompt" && name !== "model") settings[name] = NUMBERS.has(name) ? Number(value) : value;
  }
  const asked = { prompt: form.elements.prompt.value, settings, model: form.elements.model.value || null };
  if (over !== null) {
    asked.image = over.data;
    settings.strength = Number(form.elements.strength.value);
    delete settings.size;
    delete settings.hires;
  }
  return asked;
}

async function draw(event) {
  event?.preventDefault();
  complain(null);
  if (!form.reportValidity()) return;
  keep();
  try {
    put(await send("api/jobs", said()));
  } catch (error) {
    complain(error);
  }
}

function complain(error) {
  $("error").hidden = error === null;
  $("error").textContent = error?.message ?? "";
  for (const one of form.elements) one.removeAttribute?.("aria-invalid");
  const field = error?.field && form.elements[error.field];
  if (field) { field.setAttribute("aria-invalid", "true"); field.closest("details")?.setAttribute("open", ""); field.focus(); }
}

// ---- what was typed stays

function keep() {
  const values = Object.fromEntries(KEPT.map((name) => [name, form.elements[name].value]));
  localStorage.setItem("form", JSON.stringify(values));
}

function restore() {
  let values = {};
  try { values = JSON.parse(localStorage.getItem("form") ?? "{}"); } catch { /* another version's */ }
  for (const name of KEPT) if (typeof values[name] === "string") set(name, values[name]);
}

function set(name, value) {
  const field = form.elements[name];
  if (!field) return;
  if (field.tagName === "SELECT" && value && ![...field.options].some((one) => one.value === value)) field.add(new Option(value, value));
  field.value = value;
}

/** Settings of a job, or of a picture, into the form. */
function take(prompt, settings, model) {
  for (const name of KEPT) if (name !== "count") set(name, "");
  set("prompt", prompt);
  if (model) set("model", model);
  for (const [name, value] of Object.entries(settings))
    if (KEPT.includes(name) && value !== null) set(name, Array.isArray(value) ? value.join("x") : String(value));
  form.elements.prompt.focus();
  keep();
}

// ---- jobs

function put(job) {
  jobs.set(job.id, job);
  show(job);
  for (const picture of [...job.pictures].reverse()) addPicture(picture, true);
}

function show(job) {
  let row = document.getElementById(`job-${job.id}`);
  const gone = job.state === "done" || (job.state === "cancelled");
  if (gone) { row?.remove(); jobs.delete(job.id); empty(); if (job.state === "done") $("state").textContent = `${words.finished}: ${job.prompt}`; return; }
  if (row === null) {
    row = document.createElement("li");
    row.className = "job";
    row.id = `job-${job.id}`;
    row.innerHTML = '<div class="blank"></div><div><p></p><progress></progress><p class="hint"></p></div><div class="row"></div>';
    $("jobs").append(row);
  }
  const [prompt, hint] = row.querySelectorAll("p");
  prompt.textContent = job.prompt;
  const bar = row.querySelector("progress");
  const { progress } = job;
  if (progress?.steps) { bar.max = progress.steps; bar.value = progress.step; } else bar.removeAttribute("value");
  bar.hidden = job.state !== "drawing";
  bar.setAttribute("aria-label", job.prompt);
  if (job.state === "failed") { hint.textContent = job.error; hint.className = "error"; }
  else if (job.state === "waiting") hint.textContent = `${words.waiting}, ${words.place} ${(job.position ?? 0) + 1}`;
  else if (progress) hint.textContent = `${words.step} ${progress.step}/${progress.steps}` + (progress.seconds_left ? `, ${Math.ceil(progress.seconds_left)} s ${words.left}` : "");
  const wanted = job.state === "failed" ? ["retry", "cancel"] : job.state === "drawing" ? ["keep", "cancel"] : ["cancel"];
  const buttons = row.lastElementChild;
  if (buttons.dataset.wanted !== wanted.join() + document.documentElement.lang) {
    buttons.dataset.wanted = wanted.join() + document.documentElement.lang;
    buttons.replaceChildren(...wanted.map((what) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = words[what];
      button.onclick = () => act(what, job.id);
      return button;
    }));
  }
  empty();
}

function empty() { $("empty").hidden = $("jobs").childElementCount > 0; }

async function act(what, id) {
  const job = jobs.get(id);
  try {
    if (what === "retry") { forget(id); put(await send(`api/jobs/${id}/retry`, {})); }
    else if (job?.state === "failed") forget(id);
    else put(await ask(`api/jobs/${id}${what === "keep" ? "?keep=true" : ""}`, { method: "DELETE" }));
  } catch (error) { complain(error); }
}

function forget(id) { document.getElementById(`job-${id}`)?.remove(); jobs.delete(id); empty(); }

let looking = false;
async function look() {
  if (looking) return;
  looking = true;
  try {
    for (const job of [...jobs.values()].filter((one) => one.state === "drawing")) {
      const reply = await fetch(`api/jobs/${job.id}/preview`);
      const place = document.getElementById(`job-${job.id}`)?.firstElementChild;
      if (reply.status !== 200 || !place) continue;
      const url = URL.createObjectURL(await reply.blob());
      if (place.tagName === "IMG") { URL.revokeObjectURL(place.src); place.src = url; }
      else { const image = new Image(); image.alt = ""; image.src = url; place.replaceWith(image); }
    }
  } catch { /* the events tell that the server is gone */ } finally { looking = false; }
}

function listen() {
  const events = new EventSource("api/events");
  const heard = (event) => put(JSON.parse(event.data));
  events.addEventListener("state", heard);
  events.addEventListener("step", (event) => { heard(event); look(); });
  events.onopen = () => { $("state").textContent = ""; reload(); };
  events.onerror = () => { $("state").textContent = words.lost; };
}

async function reload() {
  for (const state of ["waiting", "drawing"]) for (const job of (await ask(`api/jobs?state=${state}`)).reverse()) put(job);
  for (const id of [...jobs.keys()]) { // what ended while nobody listened
    const job = jobs.get(id);
    if (job && job.state !== "failed") put(await ask(`api/jobs/${id}`));
  }
  await gallery();
}

// ---- gallery

let oldest = null;

function addPicture(picture, first) {
  if (seenPictures.has(picture.url)) return;
  const wanted = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.every((word) => picture.parameters.toLowerCase().includes(word))) return;
  seenPictures.add(picture.url);
  const prompt = picture.parameters.split("\n")[0];
  const item = document.createElement("li");
  const button = document.createElement("button");
  const image = new Image();
  const text = document.createElement("span");
  button.type = "button";
  image.loading = "lazy";
  image.alt = prompt;
  image.src = picture.url;
  text.textContent = prompt;
  text.setAttribute("aria-hidden", "true");
  button.append(image, text);
  button.onclick = () => open(picture);
  item.append(button);
  first ? $("gallery").prepend(item) : $("gallery").append(item);
}

async function gallery(more = false) {
  if (!more) { oldest = null; $("gallery").replaceChildren(); seenPictures.clear(); }
  const query = new URLSearchParams({ words: $("search").value, limit: 60, ...(oldest ? { before: oldest } : {}) });
  const found = await ask(`api/pictures?${query}`);
  for (const picture of found) addPicture(picture, false);
  oldest = found.at(-1)?.created ?? null;
  $("older").hidden = found.length < 60;
}

function open(picture) {
  shownPicture = picture;
  $("picture-large").src = picture.url;
  $("picture-large").alt = $("picture-title").textContent = picture.parameters.split("\n")[0];
  $("picture-text").textContent = picture.parameters;
  $("download").href = picture.url;
  $("download").setAttribute("download", `diafano-${picture.seed}.png`);
  $("picture").showModal();
}

// ---- pictures that are given

async function given(file) {
  if (!file?.type.startsWith("image/")) return;
  const data = await new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(file); });
  over = { data, name: file.name };
  $("over-picture").src = data;
  $("over-picture").hidden = false;
  $("over-settings").hidden = false;
  over.said = await send("api/read", { image: data }).catch(() => null);
  $("take").hidden = !over.said?.prompt && !Object.keys(over.said?.settings ?? {}).length;
}

function dropOver() {
  over = null;
  $("over-picture").hidden = true;
  $("over-settings").hidden = true;
  $("file").value = "";
}

// ---- beginning

function own(select) {
  const option = new Option(words.own, "");
  option.dataset.own = "";
  select.add(option);
}

async function begin() {
  const choices = await ask("api/choices");
  const { sampler, schedule, size, model } = form.elements;
  for (const select of [sampler, schedule]) own(select);
  for (const one of choices.samplers) sampler.add(new Option(one.label, one.name));
  for (const one of choices.schedules) schedule.add(new Option(one.label, one.name));
  for (const one of choices.models) model.add(new Option(one, one));
  for (const one of choices.sizes) size.add(new Option(one.replace("x", " × "), one));
  form.elements.steps.placeholder = choices.steps;
  form.elements.guidance.placeholder = choices.guidance;
  if (!form.elements.prompt.value) form.elements.prompt.value = choices.example;
  restore();
  speak(localStorage.getItem("language") ?? (navigator.language.startsWith("it") ? "it" : "en"));
  listen();
}

form.addEventListener("submit", draw);
form.addEventListener("change", keep);
form.elements.strength.addEventListener("input", () => { $("strength-said").value = form.elements.strength.value; });
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) draw(event); });
$("dice").onclick = () => { form.elements.seed.value = ""; keep(); };
$("language").onchange = () => speak($("language").value);
$("search").oninput = () => gallery();
$("older").onclick = () => gallery(true);
$("again").onclick = async () => {
  const job = await ask(`api/jobs/${shownPicture.job}`);
  take(job.prompt, { ...job.settings, seed: shownPicture.seed }, job.model);
  $("picture").close();
};
$("draw-over").onclick = async () => {
  const file = await (await fetch(shownPicture.url)).blob();
  await given(new File([file], "picture.png", { type: "image/png" }));
  $("picture").close();
};
$("copy").onclick = () => navigator.clipboard?.writeText(shownPicture.parameters);
$("over").onclick = () => $("file").click();
$("over").onkeydown = (event) => { if (event.key === "Enter" && !event.ctrlKey || event.key === " ") { event.preventDefault(); $("file").click(); } };
$("file").onchange = () => given($("file").files[0]);
$("drop-over").onclick = dropOver;
$("take").onclick = () => { take(over.said.prompt, over.said.settings, null); dropOver(); };
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
document.addEventListener("dragleave", (event) => { if (event.relatedTarget === null) document.body.classList.remove("dragging"); });
document.addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dragging"); given(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => { const file = [...event.clipboardData.files][0]; if (file) given(file); });
begin().catch((error) => { $("state").textContent = error.message; });
