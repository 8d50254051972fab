"use strict";
const by = (id) => document.getElementById(id);
const explains = document.body.dataset.explain === "true";
let image = null;
let turn = 0;

function headers() {
  const token = by("token");
  const type = image.type.startsWith("image/") ? image.type : "application/octet-stream";
  return token && token.value ? { "Content-Type": type, Authorization: "Bearer " + token.value } : { "Content-Type": type };
}

async function ask(what) {
  const path = "/v2/models/" + encodeURIComponent(by("model").value) + "/" + what;
  const response = await fetch(path, { method: "POST", headers: headers(), body: image });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.error || "the server answered " + response.status);
}

function say(text, bad) {
  by("message").textContent = text;
  by("message").className = bad ? "bad" : "";
}

function show(element, blob) {
  if (element.src) URL.revokeObjectURL(element.src);
  element.src = URL.createObjectURL(blob);
}

async function explain(label) {
  if (!explains) return;
  const mine = turn;
  try {
    // By its name: a class may be called as another one's index.
    const picture = await (await ask("explain?class=" + encodeURIComponent(label))).blob();
    if (mine !== turn) return;
    show(by("map"), picture);
    by("caption").textContent = "Where it sees “" + label + "”";
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

function percent(probability) {
  return (100 * probability).toFixed(1) + " %";
}

function tell(answer) {
  by("label").textContent = answer.label;
  by("decision").textContent = answer.threshold === undefined
    ? "with a probability of " + percent(answer.probability)
    : "with a probability of " + percent(answer.probability) + "; decided by the model’s threshold of " + percent(answer.threshold);
  by("classes").replaceChildren(...answer.classes.map((one) => {
    const [item, button, name, part] = ["li", "button", "span", "span"].map((tag) => document.createElement(tag));
    name.textContent = one.label;
    part.textContent = percent(one.probability);
    button.type = "button";
    button.style.setProperty("--part", 100 * one.probability + "%");
    button.append(name, part);
    button.addEventListener("click", () => explain(one.label));
    item.append(button);
    return item;
  }));
  by("answer").hidden = false;
}

async function judge() {
  if (!image) return;
  const mine = ++turn;
  say("Asking …");
  try {
    const answer = await (await ask("infer?top=20")).json();
    if (mine !== turn) return;
    show(by("image"), image);
    tell(answer);
    say("");
    await explain(answer.label);
  } catch (error) {
    if (mine !== turn) return;
    by("answer").hidden = true;
    say(error.message, true);
  }
}

function take(files) {
  if (!files.length) return;
  image = files[0];
  judge();
}

by("form").addEventListener("submit", (event) => event.preventDefault());
by("file").addEventListener("change", (event) => take(event.target.files));
by("model").addEventListener("change", judge);
for (const name of ["dragover", "dragleave", "drop"]) {
  by("drop").addEventListener(name, (event) => {
    event.preventDefault();
    by("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files));
