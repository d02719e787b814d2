"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const video = find("video"), list = find("list"), lanes = find("lanes");
const buttons = list ? [...list.querySelectorAll("button")] : [];
const names = buttons.map((button) => button.querySelector("b").textContent);
let at = 0, shown = "";  // seconds; without a video that plays, where the playhead was put

const playable = () => video !== null && !video.error;
const now = () => (playable() ? video.currentTime : at);

function clock(seconds) {
  const tenths = Math.round(seconds * 10), whole = Math.floor(tenths / 10);
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return (hours ? hours + ":" + two(minutes) : minutes) + ":" + two(whole % 60) + "." + (tenths % 10);
}

function draw() {
  const time = now();
  find("playhead").style.left = Math.min(100 * time / data.length, 100) + "%";
  find("clock").textContent = clock(time);
  const on = data.start.flatMap((start, i) => (start <= time + 1e-3 && time < data.end[i] ? [i] : []));
  if (on.join() === shown) return;
  for (const button of buttons.filter((one) => one.hasAttribute("aria-current"))) button.removeAttribute("aria-current");
  for (const i of on) buttons[i].setAttribute("aria-current", "true");
  if (on.length) {
    const row = buttons[on[0]].parentElement;
    const above = row.offsetTop < list.scrollTop, below = row.offsetTop + row.offsetHeight > list.scrollTop + list.clientHeight;
    if (above || below) list.scrollTop = row.offsetTop - list.clientHeight / 3;
  }
  find("labels").textContent = on.map((i) => names[i]).join(", ");
  shown = on.join();
}

function seek(seconds) {
  at = Math.min(Math.max(seconds, 0), data.length);
  if (playable()) video.currentTime = at;
  draw();
}

function step(forward) {
  const time = now();
  const starts = data.start.filter((start) => (forward ? start > time + 0.05 : start < time - 0.5));
  if (starts.length) seek(forward ? Math.min(...starts) : Math.max(...starts));
}

function toggle() {
  if (!playable()) return;
  if (video.paused) video.play().catch(fail); else video.pause();
}

function fail() {
  if (!video.error) return;
  find("unplayable").hidden = false;
  video.hidden = true;
}

list?.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) seek(data.start[button.dataset.i]);
});
lanes.addEventListener("click", (event) => {
  const bar = event.target.closest("[data-i]"), box = lanes.getBoundingClientRect();
  seek(bar ? data.start[bar.dataset.i] : (event.clientX - box.left) / box.width * data.length);
});

const keys = {
  " ": toggle,
  ArrowLeft: (event) => seek(now() - (event.shiftKey ? 1 : 5)),
  ArrowRight: (event) => seek(now() + (event.shiftKey ? 1 : 5)),
  n: () => step(true),
  p: () => step(false),
};
for (const type of ["keydown", "keyup"]) document.addEventListener(type, (event) => {
  const act = keys[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();  // a focused button would be pressed, a focused video would act a second time
  event.stopPropagation();
  if (type === "keydown") act(event);
}, true);

if (video) {
  for (const type of ["timeupdate", "seeking", "seeked", "loadedmetadata"]) video.addEventListener(type, draw);
  video.addEventListener("play", function follow() { draw(); if (!video.paused) requestAnimationFrame(follow); });
  video.addEventListener("error", fail);
  fail();
}
draw();
