"use strict";
// Sends each picture to the endpoint of this page's server, and shows its answers.
const get = (id) => document.getElementById(id);
const { bytes, fit, width, height, explained } = get("main").dataset;
const COARSE = 64; // pixels of a side, up to which each is to be seen
const PREDICTED_AT_ONCE = 2;
const RETRY_SECONDS = 2;
const MOST_TRIES = 60;
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Tasks one after another, `count` at once.
function makeQueue(count) {
  const waiting = [];
  let free = count;
  const next = async () => {
    if (!free || !waiting.length) return;
    free -= 1;
    await waiting.shift()();
    free += 1;
    next();
  };
  return (task) => { waiting.push(task); next(); };
}

const inPredictQueue = makeQueue(PREDICTED_AT_ONCE);
const inExplainQueue = makeQueue(1);

async function ask(path, file) {
  for (let tries = 0; ; tries += 1) {
    let answer;
    try {
      answer = await fetch(path, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    } catch {
      throw new Error("the server cannot be reached");
    }
    if (answer.ok) return answer.json();
    if (answer.status !== 503 || tries === MOST_TRIES) {
      const { detail } = await answer.json().catch(() => ({ detail: `status ${answer.status}` }));
      throw new Error(detail);
    }
    await pause(Number(answer.headers.get("Retry-After")) || RETRY_SECONDS);
  }
}

function make(tag, text) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  return element;
}

function makeImage(uri, alt) {
  const image = make("img");
  image.alt = alt;
  image.src = uri;
  return image;
}

function showLabels(result, answer) {
  const list = result.querySelector(".bars");
  for (const { label, probability } of answer.predictions) {
    const bar = make("i");
    bar.style.setProperty("--s", probability.toFixed(3));
    const number = make("span", probability >= 0.005 ? probability.toFixed(2) : "<0.01");
    number.className = "number";
    const name = make("span", label);
    name.title = label;
    const row = make("li");
    row.append(name, bar, number);
    list.append(row);
  }
  list.hidden = false;
  result.querySelector(".state").textContent = `${answer.picture.width} x ${answer.picture.height} pixels`;
}

function showExplanation(result, answer) {
  const layer = result.querySelector(".layer");
  layer.src = answer.saliency;
  layer.hidden = false;
  const nearest = result.querySelector(".nearest");
  const { compared, planned, training_images: total } = answer;
  const count = (number) => number.toLocaleString("en");
  const of = planned < total ? `${count(planned)} of ${count(total)}` : count(total);
  nearest.querySelector("p").textContent = answer.no_nearest ? `None: ${answer.no_nearest}`
    : compared < planned ? `among ${count(compared)} so far, of ${of}` : `among ${of}`;
  nearest.querySelector("ul").replaceChildren(...answer.nearest.map(({ label, cosine, image }) => {
    const row = make("li");
    row.append(makeImage(image, ""), make("span", label), make("br"), make("small", cosine.toFixed(2)));
    return row;
  }));
  nearest.hidden = false;
}

async function explain(file, result) {
  if (!result.isConnected) return;
  const state = result.querySelector(".state");
  const told = state.textContent;
  try {
    if (result.querySelector(".layer").hidden) state.textContent = `${told}; being explained`;
    const answer = await ask("explain", file);
    showExplanation(result, answer);
    if (result.dataset.undrawn) result.querySelector(".view img").src = answer.image;
    if (answer.compared < answer.planned) pause(RETRY_SECONDS).then(() => inExplainQueue(() => explain(file, result)));
    state.textContent = told;
  } catch (error) {
    state.textContent = `${told}; not explained: ${error.message}`;
  }
}

async function predict(file, result) {
  const state = result.querySelector(".state");
  if (!result.isConnected) return;
  try {
    if (file.size > Number(bytes)) throw new Error(`expected at most ${bytes} bytes, found ${file.size}`);
    showLabels(result, await ask("predict", file));
    if (explained) inExplainQueue(() => explain(file, result));
  } catch (error) {
    state.textContent = error.message;
    state.classList.add("failed");
  }
}

function add(files) {
  for (const file of files) {
    const result = get("result").content.cloneNode(true).firstElementChild;
    const view = result.querySelector(".view");
    const image = view.firstElementChild;
    view.style.aspectRatio = `${width} / ${height}`;
    view.classList.add(fit);
    const coarse = Math.max(width, height) <= COARSE;
    result.querySelector(".nearest").classList.toggle("coarse", coarse);
    result.querySelector(".layer").classList.toggle("coarse", coarse);
    image.addEventListener("error", () => { result.dataset.undrawn = "yes"; image.removeAttribute("src"); }, { once: true });
    image.addEventListener("load", () => view.classList.toggle("coarse", Math.max(image.naturalWidth, image.naturalHeight) <= COARSE));
    image.src = URL.createObjectURL(file);
    image.alt = file.name;
    result.querySelector(".name").textContent = file.name;
    get("results").prepend(result);
    inPredictQueue(() => predict(file, result));
  }
  const count = get("results").children.length;
  get("clear").hidden = !count;
  get("told").textContent = count ? `${count} ${count === 1 ? "picture" : "pictures"}` : "";
}

const drop = get("drop");
get("files").addEventListener("change", (event) => { add([...event.target.files]); event.target.value = ""; });
document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add([...event.dataTransfer.files]);
});
get("controls").addEventListener("submit", (event) => event.preventDefault());
get("saliency")?.addEventListener("change", (event) =>
  document.body.classList.toggle("without-saliency", !event.target.checked));
get("clear").addEventListener("click", () => {
  for (const image of document.querySelectorAll(".view img:first-child")) URL.revokeObjectURL(image.src);
  get("results").replaceChildren();
  add([]);
  get("files").focus();
});
get("address").textContent = new URL(".", location.href).href;
