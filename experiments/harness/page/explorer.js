// The explorer: sliders to bandit, bandit to a table and three panels.
const WHO = { reference: "pi_ref", kl_pi_ref: "KL(pi‖pi_ref)", kl_ref_pi: "KL(pi_ref‖pi)" };
const LEAST_MASS = 0.01, WIDTH = 300, HEIGHT = 200, LEFT = 38, BOTTOM = 30, TOP = 28;
const form = document.querySelector(".sliders");

function settings() {
  const at = (name) => Number(form.elements[name].value);
  const masses = [at("mass1"), at("mass2")];
  return {
    beta: 10 ** at("beta"),
    reward: [at("reward1"), at("reward2"), 0],
    reference: [...masses, 1 - masses[0] - masses[1]],
    typicality: at("typicality"),
  };
}

// A mass that leaves too little for the others takes it from the other slider.
function giveWay(moved) {
  const other = { mass1: "mass2", mass2: "mass1" }[moved];
  if (!other) return;
  const most = 1 - LEAST_MASS - Number(form.elements[moved].value);
  if (Number(form.elements[other].value) > most) form.elements[other].value = most.toFixed(2);
}

function drawn(tag, attributes, content = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = content;
  return made;
}

function panel(title, most, unit) {
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  const y = (value) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - BOTTOM - TOP);
  svg.append(drawn("text", { x: LEFT, y: 12, class: "title" }, title));
  for (const part of [0, 0.5, 1]) {
    svg.append(drawn("line", { x1: LEFT, x2: WIDTH - 4, y1: y(part * most), y2: y(part * most), class: "grid" }));
    svg.append(drawn("text", { x: LEFT - 4, y: y(part * most) + 3, "text-anchor": "end" }, (part * most).toPrecision(2)));
  }
  svg.append(drawn("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, unit));
  return { svg, y };
}

function bars(found) {
  const { svg, y } = panel("probability", 1, "arm");
  const wide = (WIDTH - LEFT) / 3, bar = wide / 4;
  for (let arm = 0; arm < 3; arm++) {
    Object.keys(WHO).forEach((who, i) => {
      const top = y(found[who].probability[arm]), x = LEFT + arm * wide + (i + 0.5) * bar;
      svg.append(drawn("rect", { x, y: top, width: bar - 1, height: y(0) - top, class: who }));
    });
    svg.append(drawn("text", { x: LEFT + (arm + 0.5) * wide, y: HEIGHT - 16, "text-anchor": "middle" }, arm + 1));
  }
  return svg;
}

function overBeta(bandit, found, quantity, title) {
  const exponents = Array.from({ length: 61 }, (_, i) => -2 + i / 20);
  const curves = exponents.map((exponent) => policies({ ...bandit, beta: 10 ** exponent }));
  const most = Math.max(0.01, ...curves.flatMap((each) => Object.keys(WHO).map((who) => each[who][quantity])));
  const { svg, y } = panel(title, most, "beta");
  const x = (exponent) => LEFT + ((exponent + 2) / 3) * (WIDTH - LEFT - 8);
  for (const exponent of [-2, -1, 0, 1]) svg.append(drawn("text", { x: x(exponent), y: HEIGHT - 16, "text-anchor": "middle" }, 10 ** exponent));
  for (const who of Object.keys(WHO)) {
    const points = exponents.map((exponent, i) => `${x(exponent).toFixed(1)},${y(curves[i][who][quantity]).toFixed(1)}`);
    svg.append(drawn("polyline", { points: points.join(" "), class: who }));
  }
  const at = x(Math.log10(bandit.beta)), square = y(found.kl_ref_pi[quantity]);
  svg.append(drawn("circle", { cx: at, cy: y(found.kl_pi_ref[quantity]), r: 4, class: "kl_pi_ref" }));
  svg.append(drawn("rect", { x: at - 3.5, y: square - 3.5, width: 7, height: 7, class: "kl_ref_pi" }));
  return svg;
}

function cell(value) {
  const made = document.createElement("td");
  made.className = "number";
  made.dataset.value = value;
  made.textContent = value === 0 || Math.abs(value) >= 1e-3 ? value.toFixed(4) : value.toExponential(1);
  return made;
}

function explore() {
  const bandit = settings(), found = policies(bandit);
  for (const input of form.elements) {
    if (input.name) input.previousElementSibling.textContent = input.name === "beta" ? bandit.beta.toPrecision(3) : Number(input.value).toFixed(2);
  }
  const rows = Object.entries(WHO).map(([who, label]) => {
    const row = document.createElement("tr"), { probability, reward, entropy, kl_pi_ref, kl_ref_pi } = found[who];
    const head = document.createElement("td");
    head.textContent = who === "reference" ? label : `optimum under ${label}`;
    head.className = `key ${who}`;
    row.dataset.policy = who;
    row.append(head, ...[...probability, reward, entropy, kl_pi_ref, kl_ref_pi].map(cell));
    return row;
  });
  document.querySelector("#explored tbody").replaceChildren(...rows);
  document.querySelector("#panels").replaceChildren(
    bars(found),
    overBeta(bandit, found, "entropy", "entropy, nats"),
    overBeta(bandit, found, "kl_pi_ref", "KL(pi‖pi_ref), nats"),
  );
}

form.addEventListener("input", (event) => {
  giveWay(event.target.name);
  explore();
});
explore();
