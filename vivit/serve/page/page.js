"use strict";
const find = (id) => document.getElementById(id);
const video = find("video"), lanes = find("lanes");
const SURE = 0.5, CLOSE = 0.1, CAMERA_HOP = 0.5, SVG = "http://www.w3.org/2000/svg";
let token = sessionStorage.getItem("token") ?? "", turn = 0, file = null, job = null, recorder = null, cameraPath = "", leftOut = 0;
let most = Infinity, timeline = null, segments = [], shown = "";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function clock(seconds) {
  const tenths = Math.round(seconds * 10), whole = Math.floor(tenths / 10), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return (hours ? hours + ":" + two(minutes) : minutes) + ":" + two(whole % 60) + "." + (tenths % 10);
}

const percent = (p) => (100 * p).toFixed(1) + " %";

function say(text, share = null) {
  find("status").textContent = text;
  find("progress").hidden = !text;
  if (share === null) find("progress").removeAttribute("value"); else find("progress").value = share;
}

function fail(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
}

const authorization = () => (token ? { Authorization: "Bearer " + token } : {});

function refuse(status, text) {
  let message = text;
  try { message = JSON.parse(text).error; } catch { /* not ours */ }
  if (status === 401) { find("token-form").hidden = false; find("token").focus(); }
  return new Error(message || "the server does not answer");
}

// XMLHttpRequest, because fetch does not say how much of a body is sent.
function upload(path, body, what) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(), started = performance.now();
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => say("uploading", event.loaded / event.total);
    const timer = setInterval(() => say(what + " – " + Math.round((performance.now() - started) / 1000) + " s"), 1000);
    request.upload.onload = () => say(what);
    request.onloadend = () => {
      clearInterval(timer);
      if (request.status >= 200 && request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(refuse(request.status, request.responseText));
    };
    request.send(body);
  });
}

function showClasses(answer) {
  const sets = Object.entries(answer.classes).map(([name, top]) => {
    const [first, second] = top;
    const rows = top.flatMap((one) => {
      const bar = make("i");
      bar.style.width = 100 * one.probability + "%";
      return [make("dt", {}, one.name), make("dd", { "aria-hidden": "true" }, make("i", { class: "meter" }, bar)),
        make("dd", {}, percent(one.probability))];
    });
    const set = make("div", { class: "set" }, make("h3", {}, name), make("dl", {}, ...rows));
    if (answer.unsure.includes(name)) set.append(make("p", { class: "unsure" }, "Unsure: no class reaches " + percent(SURE) + "."));
    else if (second && first.probability - second.probability < CLOSE)
      set.append(make("p", { class: "unsure" }, "Unsure: " + first.name + " or " + second.name + "."));
    return set;
  });
  if (answer.video.problem) sets.push(make("p", { class: "unsure" }, "The file: " + answer.video.problem));
  find("classes").replaceChildren(...sets);
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function lane(one, times, length, mine) {
  const svg = draw("svg", { viewBox: "0 0 1000 60", preserveAspectRatio: "none", class: "lane", "aria-hidden": "true" });
  const points = times.map((t, i) => (1000 * t / length).toFixed(1) + " " + (48 - 44 * one.probability[i]).toFixed(1));
  svg.append(draw("path", { class: "line", d: "M" + points.join("L") }));
  for (const s of mine) {
    const width = 1000 * (s.end - s.start) / length;
    svg.append(draw("rect", { class: "found", x: 1000 * s.start / length, y: 52, width: Math.max(width, 2), height: 6 }));
  }
  return svg;
}

function unsureTimes(result) {
  const found = [];
  for (const [name, drawn] of Object.entries(result.classes)) {
    let from = null;
    result.center.forEach((time, i) => {
      const low = drawn.every((one) => one.probability[i] < SURE);
      if (low && from === null) from = time;
      if (from !== null && (!low || i === result.center.length - 1)) {
        found.push(name + " " + clock(from) + "–" + clock(low ? result.end[i] : time));
        from = null;
      }
    });
  }
  return found;
}

function showTimeline(result) {
  timeline = result;
  segments = result.segments;
  const length = result.video.seconds, children = [];
  for (const [name, drawn] of Object.entries(result.classes)) drawn.forEach((one, k) => {
    const mine = segments.filter((s) => s.label_set === name && s.label === one.name);
    const peak = "up to " + percent(Math.max(...one.probability));
    children.push(make("p", { class: "lane-name" }, make("b", {}, one.name), make("span", {}, name + " · " + peak)));
    children.push(make("div", { class: "s" + (k % 5) }, lane(one, result.center, length, mine)));
  });
  const marks = make("div", { class: "marks" });
  for (let k = 0; k < 5; k++) {
    const mark = make("span", {}, clock(k * length / 5));
    mark.style.left = 20 * k + "%";
    marks.append(mark);
  }
  lanes.replaceChildren(...children, marks, make("i", { class: "playhead", id: "playhead" }));
  const unsure = unsureTimes(result), more = unsure.length > 8 ? " and " + (unsure.length - 8) + " more times" : "";
  find("unsure-times").textContent = unsure.length
    ? "Unsure, no class reaches " + percent(SURE) + ": " + unsure.slice(0, 8).join(", ") + more + "." : "";
  find("segments").replaceChildren(...segments.map((s) => {
    const button = make("button", { type: "button" }, make("b", {}, s.label), make("span", {}, percent(s.score)),
      make("small", {}, clock(s.start) + " – " + clock(s.end) + " · " + s.label_set));
    button.addEventListener("click", () => seek(s.start));
    return make("li", {}, button);
  }));
  find("over-time").hidden = false;
  shown = "";
  follow();
}

function follow() {
  find("clock").textContent = clock(video.currentTime);
  if (!timeline) return;
  find("playhead").style.left = Math.min(100 * video.currentTime / timeline.video.seconds, 100) + "%";
  const on = segments.flatMap((s, i) => (s.start <= video.currentTime + 1e-3 && video.currentTime < s.end ? [i] : []));
  if (on.join() === shown) return;
  shown = on.join();
  [...find("segments").querySelectorAll("button")].forEach((button, i) => {
    if (on.includes(i)) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
  });
  find("labels").textContent = on.map((i) => segments[i].label).join(", ");
}

function seek(seconds) {
  video.currentTime = Math.min(Math.max(seconds, 0), video.duration || timeline?.video.seconds || 0);
  follow();
}

async function events(id, mine) {
  const answer = await fetch("v1/jobs/" + id + "/events", { headers: authorization() });
  if (!answer.ok) throw refuse(answer.status, await answer.text());
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "", part = await reader.read(); !part.done; part = await reader.read()) {
    if (mine !== turn) return reader.cancel();
    const lines = (text + part.value).split("\n");
    text = lines.pop();
    for (const line of lines.filter((one) => one.startsWith("data: "))) {
      const now = JSON.parse(line.slice(6));
      if (now.status === "failed") throw new Error(now.error);
      say("looking at " + (now.total ? now.done + " of " + now.total + " moments" : "the video"), now.total ? now.done / now.total : null);
    }
  }
}

const forget = (id) => fetch("v1/jobs/" + id, { method: "DELETE", headers: authorization(), keepalive: true });

async function look(chosen) {
  const mine = ++turn;
  file = chosen;
  fail("");
  for (const id of ["over-time", "results", "unplayable"]) find(id).hidden = true;
  find("moments").replaceChildren();
  find("explain").disabled = find("explain").hidden = false;
  timeline = null;
  segments = [];
  if (job) forget(job);
  job = null;
  URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.hidden = false;
  video.src = URL.createObjectURL(chosen);
  try {
    const answer = await upload("v1/predict?top_k=5&threshold=" + SURE, chosen, "classifying");
    if (mine !== turn) return;
    showClasses(answer);
    find("results").hidden = false;
    job = (await upload("v1/jobs?top_k=8", chosen, "waiting for the timeline")).id;
    if (mine !== turn) return;
    await events(job, mine);
    if (mine !== turn) return;
    const done = await fetch("v1/jobs/" + job, { headers: authorization() });
    if (!done.ok) throw refuse(done.status, await done.text());
    showTimeline((await done.json()).result);
    forget(job);
    job = null;
    say("");
  } catch (error) {
    if (mine !== turn) return;
    say("");
    fail(error.message);
  }
}

async function explain() {
  const mine = turn;
  find("explain").disabled = true;
  fail("");
  try {
    const answer = await upload("v1/explain?random_orders=4", file, "finding where it looks");
    if (mine !== turn) return;
    const verdict = answer.better_than_random ? "The map is better than 4 random orders." : "The map is NO better than random order: do not trust it.";
    find("explain").hidden = true;
    find("why").textContent = "What speaks for " + answer.label + " (" + percent(answer.score) + " for this clip): bright places. " + verdict;
    find("moments").replaceChildren(...answer.moments.map((one) => make("li", {},
      make("img", { src: one.frame, alt: "the frame at " + clock(one.seconds) }),
      make("img", { src: one.map, alt: "where it looks at " + clock(one.seconds) }),
      make("small", {}, clock(one.seconds) + " · " + percent(one.share)))));
    say("");
  } catch (error) {
    say("");
    fail(error.message);
    find("explain").disabled = false;
  }
}

async function post(path, body) {
  const headers = { ...authorization(), "Content-Type": "application/octet-stream" };
  const answer = await fetch(path, { method: "POST", headers, body }), text = await answer.text();
  if (!answer.ok) throw refuse(answer.status, text);
  return JSON.parse(text);
}

async function camera() {
  if (recorder) return stopCamera();
  const mine = ++turn;
  let media = null, path = "";
  find("camera").disabled = true;
  fail("");
  try {
    media = await navigator.mediaDevices.getUserMedia({ video: true });
    say("starting a decoder for the camera");
    path = "v1/streams/" + (await post("v1/streams?when_slow=drop&hop=" + CAMERA_HOP)).id;
    if (mine === turn) await watch(media, path, mine); else leave(media, path);
  } catch (error) {
    leave(media, path);
    if (mine === turn) { say(""); fail("No camera: " + error.message); }
  }
  find("camera").disabled = false;
}

function leave(media, path) {
  for (const track of media?.getTracks() ?? []) track.stop();
  if (path) fetch(path, { method: "DELETE", headers: authorization(), keepalive: true }).catch(() => {});
}

async function watch(media, path, mine) {
  for (const id of ["over-time", "where"]) find(id).hidden = true;
  find("classes").replaceChildren();
  find("classes").setAttribute("aria-live", "off"); // the status says what changes
  find("results").hidden = false;
  video.srcObject = media;
  await video.play();
  find("camera").textContent = "Stop the camera";
  cameraPath = path;
  leftOut = 0;
  record(media, mine);
}

// The chunks of the recorder are one video. Those that come while one is sent go together, and none is left out.
function record(media, mine) {
  const path = cameraPath;
  let waiting = [], sending = false;
  recorder = new MediaRecorder(media);
  recorder.ondataavailable = async (event) => {
    if (event.data.size) waiting.push(event.data);
    if (sending || mine !== turn) return;
    sending = true;
    try {
      while (waiting.length && mine === turn) {
        const chunk = new Blob(waiting);
        waiting = [];
        const { rows } = await post(path, chunk);
        if (rows.length && mine === turn) showRow(rows.at(-1));
      }
    } catch (error) {
      if (mine === turn) { stopCamera(); fail(error.message); }
    }
    sending = false;
  };
  recorder.start(1000 * CAMERA_HOP);
}

function showRow(row) {
  const unsure = Object.keys(row.classes).filter((name) => row.classes[name][0].probability < SURE);
  showClasses({ classes: row.classes, unsure, video: {} });
  const best = Object.entries(row.classes).map(([name, top]) => (unsure.includes(name) ? "unsure of " + name : top[0].name));
  const late = row.dropped > leftOut ? " – this server is too slow for the camera, some moments are left out" : "";
  leftOut = row.dropped;
  const text = best.join(", ") + late;
  if (find("status").textContent !== text) say(text);
  find("progress").hidden = true;
}

function stopCamera() {
  turn++;
  if (recorder?.state === "recording") recorder.stop();
  recorder = null;
  leave(video.srcObject, cameraPath);
  cameraPath = "";
  find("camera").textContent = "Use the camera";
  find("classes").setAttribute("aria-live", "polite");
  find("where").hidden = false;
  find("results").hidden = true;
  video.srcObject = null;
  say("");
}

function choose(chosen) {
  if (!chosen) return;
  if (chosen.size > most) {
    fail("The video has " + Math.ceil(chosen.size / 1e6) + " MB; this server takes " + Math.floor(most / 1e6) + " MB at most. Cut it, or make it smaller.");
    return;
  }
  if (recorder) stopCamera();
  look(chosen);
}

async function greet() {
  const answer = await fetch("v1/model", { headers: authorization() });
  if (!answer.ok) { refuse(answer.status, ""); find("about").textContent = "This server wants a token."; return; }
  const about = await answer.json();
  most = about.body_bytes;
  const names = Object.entries(about.classes);
  find("about").textContent = about.name + ": " + names.map(([name, of]) => of.length + " classes of " + name).join(", ");
  find("token-form").hidden = true;
}

find("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";  // so that the same file, corrected, can be chosen again
  choose(file);
});
find("explain").addEventListener("click", explain);
find("camera").addEventListener("click", camera);
find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value;
  sessionStorage.setItem("token", token);
  fail("");
  greet();
});
for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, (event) => {
  event.preventDefault();
  find("drop").classList.toggle("over", type === "dragover");
  if (type === "drop") choose(event.dataTransfer.files[0]);
});
lanes.addEventListener("click", (event) => {
  const box = lanes.getBoundingClientRect();
  seek((event.clientX - box.left) / box.width * timeline.video.seconds);
});
const step = (forward) => {
  const starts = segments.map((s) => s.start).filter((t) => (forward ? t > video.currentTime + 0.05 : t < video.currentTime - 0.5));
  if (starts.length) seek(forward ? Math.min(...starts) : Math.max(...starts));
};
const keys = {
  " ": () => (video.paused ? video.play().catch(() => {}) : video.pause()),
  ArrowLeft: (event) => seek(video.currentTime - (event.shiftKey ? 1 : 5)),
  ArrowRight: (event) => seek(video.currentTime + (event.shiftKey ? 1 : 5)),
  n: () => step(true),
  p: () => step(false),
};
document.addEventListener("keydown", (event) => {
  const act = keys[event.key], busy = event.target.closest("button, input, label, video");
  if (!act || !timeline || event.ctrlKey || event.metaKey || event.altKey || (busy && event.key === " ") || event.target.closest("input")) return;
  event.preventDefault();
  act(event);
});
for (const type of ["timeupdate", "seeking", "seeked", "loadedmetadata"]) video.addEventListener(type, follow);
video.addEventListener("error", () => {
  if (!video.getAttribute("src") || video.srcObject) return;
  find("unplayable").hidden = false;
  video.hidden = true;
});
addEventListener("pagehide", () => { if (recorder) stopCamera(); });
if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) find("camera").hidden = true;
greet();
