// Sends pictures to api/classify and shows the answers, without a new page. What has been answered
// stays in sessionStorage: in this tab, until it is closed.
"use strict";

const AT_A_TIME = 2; // pictures under way
const MOST_AT_ONCE = 50; // of one drop or choice
const MOST_KEPT = 30;
const PREVIEW_SIDE = 800; // pixels: what is shown and kept in place of the picture
const ANSWER_MS = 120000;
const LOOK_DOWN_MS = 3000; // how often to look whether a server that was away is back
const KEY = "answers";

const element = (id) => document.getElementById(id);
const cards = element("cards");
const settings = document.body.dataset;

// ---------------------------------------------------------------------- what people read

function say(text) {
  element("live").textContent = text;
}

function complain(text) {
  element("problem").textContent = text;
}

function percent(probability) {
  if (probability > 0 && probability < 0.001) return "< 0.1 %";
  if (probability > 0.999 && probability < 1) return "> 99.9 %";
  return `${(100 * probability).toFixed(1)} %`;
}

function newCard(name, before = null) {
  const card = element("card").content.firstElementChild.cloneNode(true);
  const at = (selector) => card.querySelector(selector);
  at(".file").textContent = name;
  at(".photo").alt = name;
  at(".remove").setAttribute("aria-label", `Remove ${name}`);
  at(".remove").addEventListener("click", () => remove(card));
  cards.insertBefore(card, before);
  document.body.classList.add("answered");
  return card;
}

function setState(card, state, words = "") {
  card.classList.toggle("waiting", state === "waiting");
  card.classList.toggle("failed", state === "failed");
  card.setAttribute("aria-busy", String(state === "waiting"));
  card.querySelector(".label").textContent = state === "failed" ? "" : words;
  card.querySelector(".error").textContent = state === "failed" ? words : "";
}

function showPhoto(card, url) {
  if (url) card.querySelector(".photo").src = url;
}

function showAnswer(card, answer) {
  setState(card, "answered", answer.label);
  const bars = answer.bars.map(([name, probability]) => {
    const bar = element("bar").content.firstElementChild.cloneNode(true);
    bar.querySelector(".name").textContent = name;
    bar.querySelector("rect").setAttribute("width", `${(100 * probability).toFixed(2)}%`);
    bar.querySelector(".percent").textContent = percent(probability);
    return bar;
  });
  card.querySelector(".bars").replaceChildren(...bars);
  const others = answer.others;
  card.querySelector(".others").textContent = others ? `and ${others} other${others > 1 ? "s" : ""}` : "";
  card.querySelector(".meta").textContent = `version ${answer.version} · ${Math.round(answer.latency)} ms`;
  card.classList.toggle("no-heat", !answer.heat);
  if (answer.heat) {
    card.querySelector(".heat").src = answer.heat;
    card.querySelector(".seen").textContent = answer.seen || answer.label;
  }
}

// ---------------------------------------------------------------------- what is kept

const kept = new WeakMap(); // from cards to what is shown in them

function keep() {
  const all = [...cards.children].map((card) => kept.get(card)).filter(Boolean).slice(0, MOST_KEPT);
  for (;;) {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(all));
      return;
    } catch (error) {
      if (error.name !== "QuotaExceededError" || !all.length) return; // storage is off: not kept
      all.pop(); // it is full: without the oldest
    }
  }
}

function restore() {
  let all = [];
  try {
    all = JSON.parse(sessionStorage.getItem(KEY) || "[]");
  } catch {
    return; // storage is off
  }
  for (const answer of all) {
    const card = newCard(answer.name);
    showPhoto(card, answer.photo);
    showAnswer(card, answer);
    kept.set(card, answer);
  }
}

function remove(card) {
  const next = card.nextElementSibling || card.previousElementSibling;
  card.remove();
  keep();
  if (next) {
    next.querySelector("button.remove").focus();
  } else {
    document.body.classList.remove("answered");
    element("choose").focus();
  }
}

// ---------------------------------------------------------------------- pictures

const READ_AS_THEY_ARE = ["ffd8ff", "89504e470d0a1a0a", "474946383761", "474946383961", "424d"];

async function isReadAsItIs(file) {
  const head = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  const hex = [...head].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return READ_AS_THEY_ARE.some((start) => hex.startsWith(start));
}

function draw(bitmap, longest) {
  const scale = Math.min(1, longest / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // as the model sees what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// Returns what to show of a file, and what to send: the file itself, but what only browsers can
// read (WebP, AVIF) as a JPEG file.
async function prepare(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return { photo: "", data: file }; // whoever asks the model knows better why
  }
  try {
    const photo = draw(bitmap, PREVIEW_SIDE).toDataURL("image/jpeg", 0.82);
    if (await isReadAsItIs(file)) return { photo, data: file };
    const whole = draw(bitmap, Infinity);
    const data = await new Promise((done) => whole.toBlob(done, "image/jpeg", 0.95));
    return { photo, data: data || file };
  } finally {
    bitmap.close();
  }
}

// ---------------------------------------------------------------------- questions

const waiting = [];
let underWay = 0;

function take(files) {
  complain("");
  const some = [...files].slice(0, MOST_AT_ONCE);
  if (files.length > some.length) {
    complain(`These are ${files.length} pictures: the first ${some.length} were taken.`);
  }
  const latest = cards.firstElementChild;
  const added = some.map((file) => {
    const name = file.name || "picture";
    const card = newCard(name, latest);
    setState(card, "waiting", "Looking …");
    return { card, file, name };
  });
  if (!added.length) return;
  waiting.push(...added);
  const top = element("answers").getBoundingClientRect().top;
  if (top > 0.6 * innerHeight) element("answers").scrollIntoView();
  next();
}

function next() {
  while (underWay < AT_A_TIME && waiting.length) {
    underWay += 1;
    ask(waiting.shift()).finally(() => {
      underWay -= 1;
      next();
    });
  }
}

async function ask(item) {
  const { card, file, name } = item;
  if (!card.isConnected) return;
  card.classList.remove("repeatable");
  setState(card, "waiting", "Looking …");
  if (file.size > Number(settings.maxBytes)) {
    fail(card, name, settings.tooLarge);
    return;
  }
  try {
    if (!item.data) Object.assign(item, await prepare(file));
    showPhoto(card, item.photo);
    const found = await post(item);
    if (!card.isConnected) return;
    const ranked = Object.entries(found.probabilities).sort((one, other) => other[1] - one[1]);
    const shown = Number(settings.mostShown);
    const answer = {
      name,
      photo: item.photo,
      label: found.unfamiliar > 1 ? "none of these" : found.label,
      seen: found.label, // what the heat map shows
      bars: ranked.slice(0, shown),
      others: Math.max(0, ranked.length - shown),
      version: found.version,
      latency: found.latency_ms,
      heat: found.heat_map || "",
    };
    showAnswer(card, answer);
    kept.set(card, answer);
    keep();
    const strange = found.unfamiliar > 1;
    say(`${name}: ${answer.label}${strange ? "" : `, ${percent(found.confidence)}`}`);
    isUp(true);
  } catch (error) {
    if (error instanceof Refusal) {
      fail(card, name, error.message, error.repeat && (() => ask(item)));
      if (error.repeat) look();
    } else {
      fail(card, name, "This page's own server does not answer. Is it still running?", () => ask(item));
    }
  }
}

class Refusal extends Error {
  constructor(words, repeat) {
    super(words);
    this.repeat = repeat;
  }
}

async function post(item) {
  for (;;) {
    const form = new FormData();
    form.append("image", item.data, item.name);
    const response = await fetch("api/classify?heat_map=true", {
      method: "POST",
      body: form,
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    const type = response.headers.get("Content-Type") || "";
    const found = type.startsWith("application/json") ? await response.json() : { error: await response.text() };
    const result = found.results ? found.results[0] : found;
    if (!result.error) return result;
    if (response.status === 429 && item.card.isConnected) { // a turn comes by itself
      setState(item.card, "waiting", "Waiting for a turn …");
      await new Promise((done) => setTimeout(done, 1000 * (Number(response.headers.get("Retry-After")) || 1)));
      continue;
    }
    throw new Refusal(result.error, response.status >= 500);
  }
}

function fail(card, name, words, repeat) {
  setState(card, "failed", words);
  say(`${name}: ${words}`);
  card.classList.toggle("repeatable", Boolean(repeat));
  const again = card.querySelector(".again");
  again.onclick = repeat ? () => { card.querySelector(".remove").focus(); repeat(); } : null;
}

// ---------------------------------------------------------------------- the server

let looking = 0;

function isUp(up, words = "") {
  const status = element("status");
  status.classList.toggle("up", up);
  status.classList.toggle("down", !up);
  if (!up && status.textContent !== words) status.textContent = words;
}

async function look() {
  clearTimeout(looking);
  try {
    const response = await fetch("healthz", { signal: AbortSignal.timeout(ANSWER_MS) });
    const found = await response.json();
    if (!response.ok) throw new Refusal(found.error, true);
    const name = document.createElement("b");
    name.textContent = found.model;
    element("status").replaceChildren("Model ", name, ` version ${found.version}`);
    isUp(true);
    const classes = found.classes;
    const listed = classes.length > 12 ? `${classes.length} classes` : new Intl.ListFormat("en").format(classes);
    element("known").textContent = classes.length
      ? `The model knows ${listed}, and nothing else: it names one of them for any picture.`
      : "";
  } catch (error) {
    const own = "This page's own server does not answer.";
    isUp(false, error instanceof Refusal ? error.message : own);
    looking = setTimeout(look, LOOK_DOWN_MS);
  }
}

// ---------------------------------------------------------------------- ways in

for (const id of ["choose", "photograph"]) {
  element(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // the same file may be chosen again
  });
}

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    take(files);
  } else {
    complain("There is no picture in the clipboard: copy one first.");
  }
});

const zone = document.querySelector(".drop");
let inside = 0; // elements that are being dragged over
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    inside = { dragenter: inside + 1, dragover: inside, dragleave: inside - 1, drop: 0 }[type];
    zone.classList.toggle("over", inside > 0);
    if (type !== "drop") return;
    if (event.dataTransfer.files.length) {
      take(event.dataTransfer.files);
    } else {
      complain("That is not a file: save the picture first, then drop it here.");
    }
  });
}

for (const button of document.querySelectorAll(".strip button")) {
  button.addEventListener("click", async (event) => {
    event.preventDefault();
    try {
      const response = await fetch(`samples/${button.value}`);
      const data = await response.blob();
      take([new File([data], button.dataset.name, { type: data.type })]);
    } catch {
      complain("This page's own server does not answer. Is it still running?");
    }
  });
}

document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());

element("clear").addEventListener("click", () => {
  waiting.length = 0;
  cards.replaceChildren();
  document.body.classList.remove("answered");
  keep();
  say("All answers are gone.");
  element("choose").focus();
});

restore();
look();
