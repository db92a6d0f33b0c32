"use strict";

const say = (role, text) => {
  const place = document.querySelector(`main [role="${role}"]:not(noscript *)`);
  if (place.textContent !== text) place.textContent = text; // said aloud at every change
};
const silent = "nldiff does not answer: was it ended?";

document.getElementById("upload")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target, button = form.querySelector("button"), file = form.querySelector("input").files[0];
  const megabytes = file.size / 1e6;
  say("alert", "");
  if (megabytes > Number(form.dataset.limit)) {
    say("alert", `${file.name}: ${megabytes.toFixed(1)} MB, at most ${form.dataset.limit} MB are taken (--limit-mb)`);
    return;
  }
  button.disabled = true;
  say("status", "Uploading …");
  try {
    const response = await fetch(`/tasks?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
    const answer = await response.json();
    if (response.ok) location.assign(answer.address);
    else say("alert", answer.error);
  } catch {
    say("alert", silent);
  }
  say("status", "");
  button.disabled = false;
});

async function follow() {
  try {
    const response = await fetch("state");
    const task = await response.json();
    if (!response.ok || ["done", "failed"].includes(task.state)) {
      location.reload();
      return;
    }
    // The phase without its count: what changes twice a second is nothing to say aloud.
    say("status", task.phase.replace(/ \d+\/\d+$/, "") || task.state);
    const bar = document.querySelector("progress");
    if (task.total > 0) {
      bar.max = task.total;
      bar.value = task.done;
      const left = Math.max(0, task.total - task.done);
      document.getElementById("time").textContent = `${Math.round(task.done)} s, about ${Math.round(left)} s left`;
    }
    say("alert", "");
  } catch {
    say("alert", silent);
  }
  setTimeout(follow, 500);
}

document.getElementById("cancel")?.addEventListener("click", async () => {
  await fetch("cancel", { method: "POST" }).catch(() => {});
  location.assign("/");
});
if (document.getElementById("task")) follow();
