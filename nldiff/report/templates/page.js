"use strict";

const positions = new Map(); // where each example was, seconds
let current = null; // the player that was started last
let playing = false; // whether it is meant to play

const exampleOf = (audio) => audio.closest(".example");
const buttonOf = (audio) => audio.parentElement.querySelector("button");

function remember(audio) {
  if (audio.readyState > 0 && !audio.seeking) positions.set(exampleOf(audio), audio.currentTime);
}

function play(audio) {
  const example = exampleOf(audio);
  if (current && current !== audio) {
    stop();
    if (exampleOf(current) !== example) unload(exampleOf(current));
  }
  current = audio;
  playing = true;
  // The other methods load meanwhile, so that switching does not stutter.
  for (const other of example.querySelectorAll("audio")) other.preload = "auto";
  seek(audio, positions.get(example) ?? 0);
  start(audio);
}

function start(audio) {
  audio.play().catch(() => {}); // what went wrong is an event of its own
}

function stop() {
  if (playing) remember(current);
  playing = false;
  current.pause();
}

// Browsers refuse to keep more than some dozen players loaded.
function unload(example) {
  for (const audio of example.querySelectorAll("audio")) {
    audio.preload = "none";
    setSource(audio);
  }
}

// The address for the setting that is chosen; setting it again forgets what was loaded.
function setSource(element) {
  const selector = element.closest(".task").querySelector("select");
  const source = JSON.parse(element.dataset.sources)[selector?.value ?? 0];
  if (element.src.startsWith("blob:")) URL.revokeObjectURL(element.src);
  if (source) {
    element.setAttribute("src", source);
  } else if (element.hasAttribute("src")) {
    element.removeAttribute("src");
    element.load?.(); // without it a player would keep the old file
  }
}

function seek(audio, seconds) {
  if (audio.readyState === 0) {
    audio.addEventListener("loadedmetadata", () => seek(audio, seconds), { once: true });
  } else if (seconds > 0 && audio.seekable.length && audio.seekable.end(0) < Math.min(seconds, audio.duration)) {
    loadWhole(audio, seconds);
  } else {
    audio.currentTime = Math.min(seconds, audio.duration);
  }
}

// Some web servers do not send parts of files: then browsers cannot seek, or do not play at all.
async function loadWhole(audio, seconds) {
  const source = audio.getAttribute("src");
  audio.pause();
  try {
    const response = await fetch(source);
    const file = await response.blob();
    if (!response.ok) throw new Error(response.statusText);
    if (audio.getAttribute("src") !== source) return; // something else was chosen meanwhile
    audio.src = URL.createObjectURL(file);
    seek(audio, seconds);
    if (audio === current && playing) start(audio);
  } catch {
    note(audio, "cannot be played");
  }
}

function note(audio, text) {
  audio.parentElement.querySelector("small").textContent = text;
}

function showPosition(example, seconds, duration) {
  const slider = example.querySelector("input");
  if (Number.isFinite(duration)) {
    slider.max = duration;
    slider.disabled = false;
  }
  slider.value = seconds;
  const whole = Math.floor(seconds);
  example.querySelector("output").textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function choose(task) {
  const resumed = playing && !current.paused && task.contains(current) ? current : null;
  if (resumed) stop();
  for (const element of task.querySelectorAll("[data-sources]")) setSource(element);
  for (const audio of task.querySelectorAll("audio")) buttonOf(audio).disabled = !audio.hasAttribute("src");
  const selector = task.querySelector("select");
  for (const element of task.querySelectorAll("[data-texts]")) {
    element.textContent = JSON.parse(element.dataset.texts)[selector?.value ?? 0];
  }
  if (resumed?.hasAttribute("src")) play(resumed);
}

for (const audio of document.querySelectorAll("audio")) {
  const example = exampleOf(audio);
  const button = buttonOf(audio);
  button.addEventListener("click", () => (audio.paused ? play(audio) : stop()));
  audio.addEventListener("play", () => button.setAttribute("aria-pressed", "true"));
  for (const event of ["pause", "emptied"]) {
    audio.addEventListener(event, () => button.setAttribute("aria-pressed", "false"));
  }
  audio.addEventListener("timeupdate", () => {
    if (audio !== current || audio.paused || audio.seeking || audio.readyState === 0) return;
    remember(audio);
    showPosition(example, audio.currentTime, audio.duration);
  });
  audio.addEventListener("ended", () => {
    if (audio === current) playing = false;
    positions.set(example, 0);
    showPosition(example, 0, audio.duration);
  });
  audio.addEventListener("error", () => {
    if (location.protocol === "file:" || audio.src.startsWith("blob:")) note(audio, "cannot be played");
    else loadWhole(audio, positions.get(example) ?? 0);
  });
}

for (const example of document.querySelectorAll(".example")) {
  example.querySelector("input").addEventListener("input", (event) => {
    const seconds = Number(event.target.value);
    positions.set(example, seconds);
    if (current && exampleOf(current) === example) seek(current, seconds);
    showPosition(example, seconds, NaN);
  });
  example.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const buttons = [...example.querySelectorAll(".player button:enabled")];
    const at = buttons.indexOf(event.target);
    if (!step || at < 0) return;
    event.preventDefault();
    buttons.at((at + step) % buttons.length).focus();
  });
}

for (const task of document.querySelectorAll(".task")) {
  task.querySelector("select")?.addEventListener("change", () => choose(task));
  choose(task);
}

const root = document.documentElement;
const theme = document.getElementById("theme");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function showTheme() {
  theme.textContent = isDark() ? "Light colours" : "Dark colours";
}

theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch { /* storage is off: the choice lasts as long as the page */ }
  showTheme();
});
try {
  root.dataset.theme = localStorage.getItem("theme") ?? "";
} catch { /* as above */ }
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
showTheme();
