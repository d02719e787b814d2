"use strict";
const { classes, videos } = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const video = get("video");
let current = 0, begin = null, end = null, saving = Promise.resolve();

const seconds = (time) => time === null ? "…" : `${time.toFixed(2)} s`;
const span = (one) => one.start === null && one.end === null ? "whole video" : `${seconds(one.start)} – ${seconds(one.end)}`;

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function show() {
  const one = videos[current];
  get("name").textContent = one.path;
  get("range").textContent = begin === null && end === null ? "" : `segment ${seconds(begin)} – ${seconds(end)}`;
  get("suggestion").hidden = !one.suggestion;
  if (one.suggestion) get("suggestion").textContent = `the model says ${one.suggestion[0]} (${Math.round(100 * one.suggestion[1])} %)`;
  get("count").textContent = `${videos.filter((v) => v.labels.length).length} of ${videos.length} videos labelled`;
  const list = get("list");
  list.replaceChildren();
  videos.forEach((other, i) => {
    const button = element("button", "", element("li", "", list));
    button.type = "button";
    element("b", other.path, button);
    for (const label of other.labels) element("small", `${label.label}: ${span(label)}`, button);
    if (i === current) { button.setAttribute("aria-current", "true"); button.scrollIntoView({ block: "nearest" }); }
    button.onclick = () => open(i);
  });
}

function open(i) {
  current = i;
  begin = end = null;
  get("unplayable").hidden = true;
  video.src = `/video/${i}`;
  video.play().catch(() => {});
  show();
}

function change(i, labels) {
  saving = saving.then(async () => {
    let problem = "";
    try {
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch(`/labels/${i}`, { method: "POST", headers, body: JSON.stringify(labels) });
      if (answer.ok) videos[i].labels = await answer.json();
      else problem = await answer.text();
    } catch (error) {
      problem = `not saved: ${error.message}; is vivit still running?`;
    }
    get("problem").textContent = problem;
    get("problem").hidden = !problem;
    show();
    return !problem;
  });
  return saving;
}

async function label(name) {
  const i = current, has_segment = begin !== null || end !== null;
  const segment = { start: begin, end: end === null && begin !== null ? video.currentTime : end, label: name };
  const others = videos[i].labels.filter((one) => has_segment || one.start !== null || one.end !== null);
  begin = end = null;
  if (await change(i, [...others, segment]) && !has_segment) {
    const next = videos.findIndex((one, j) => j > i && !one.labels.length);
    if (next >= 0) open(next);
  }
}

classes.forEach((name, i) => {
  const button = element("button", "", element("li", "", get("classes")));
  button.type = "button";
  if (i < 9) element("kbd", `${i + 1}`, button);
  button.append(name);
  button.onclick = () => label(name);
});

video.onerror = () => { get("unplayable").hidden = false; };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const number = Number(event.key) - 1;
  const keys = {
    i: () => { begin = video.currentTime; show(); },
    o: () => { end = video.currentTime; show(); },
    n: () => open(Math.min(current + 1, videos.length - 1)),
    p: () => open(Math.max(current - 1, 0)),
    ",": () => { video.pause(); video.currentTime -= 0.04; },
    ".": () => { video.pause(); video.currentTime += 0.04; },
    " ": () => { if (video.paused) video.play(); else video.pause(); },
    Backspace: () => change(current, videos[current].labels.slice(0, -1)),
    Enter: () => { if (videos[current].suggestion) label(videos[current].suggestion[0]); },
  };
  const act = number >= 0 && number < classes.length ? () => label(classes[number]) : keys[event.key];
  if (act) { event.preventDefault(); act(); }
});
open(Math.max(videos.findIndex((one) => !one.labels.length), 0));
