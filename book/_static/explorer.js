// The explorer: feature networks of trained layers, their boxes, curve and null band. It loads nothing but its data.
(() => {
  const data = window.explorerData, place = document.getElementById("explorer");
  if (!data || !place) return;

  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#882255"];
  const GREY = "#c9ced3", INK = "#3b444d", HIGHEST_RATE = 0.55;
  const WIDTH = 340, HEIGHT = 260, LEFT = 46, RIGHT = 330, TOP = 12, BOTTOM = 215;

  place.innerHTML = `
    <form>
      <label>Architecture <select name="network"></select></label>
      <label>Layer <select name="layer"></select></label>
      <label>Epoch <output name="epochShown"></output><input type="range" name="epoch" min="0" value="99"></label>
      <label>Box size <output name="sizeShown"></output><input type="range" name="size" min="0" max="100" value="60"></label>
    </form>
    <p role="status"></p>
    <div class="explorer-panels">
      ${["Feature network and boxes", "Box counts", "SS rate"].map((title) => `<figure>
        <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img"></svg><figcaption>${title}</figcaption></figure>`).join("")}
    </div>`;
  const { network, layer, epoch, size, epochShown, sizeShown } = place.querySelector("form").elements;
  const [drawing, curve, rates] = place.querySelectorAll("svg"), status = place.querySelector("p");

  const options = (select, names) => {
    const before = select.selectedIndex;
    select.innerHTML = names.map((name) => `<option>${name}</option>`).join("");
    select.selectedIndex = Math.min(Math.max(before, 0), names.length - 1);
  };
  const line = (points, style) => `<polyline points="${points.map((p) => p.map((v) => v.toFixed(1)).join()).join(" ")}"
    fill="none" ${style}/>`;
  const text = (x, y, words, style = "") => `<text x="${x}" y="${y}" font-size="12" fill="${INK}" ${style}>${words}</text>`;
  const axes = (x, y, ends) => line([[LEFT, TOP], [LEFT, BOTTOM], [RIGHT, BOTTOM]], `stroke="${INK}"`)
    + text(LEFT - 4, TOP + 8, ends[1], 'text-anchor="end"') + text(LEFT - 4, BOTTOM, ends[0], 'text-anchor="end"')
    + text((LEFT + RIGHT) / 2, HEIGHT - 8, x, 'text-anchor="middle"')
    + text(14, (TOP + BOTTOM) / 2, y, `text-anchor="middle" transform="rotate(-90 14 ${(TOP + BOTTOM) / 2})"`);
  const onX = (share) => LEFT + share * (RIGHT - LEFT), onY = (share) => BOTTOM - share * (BOTTOM - TOP);

  // The box of each neuron after the first merges, as the number of its cluster, and a colour for every cluster: at each
  // split from the top the larger part keeps the colour.
  const boxesOf = (state, n, merges) => {
    const parent = [], sizes = Array(n).fill(1), colours = [];
    for (let k = 0; k < n - 1; k++) {
      const [a, b] = state.m.slice(2 * k, 2 * k + 2);
      parent[a] = parent[b] = n + k;
      sizes[n + k] = sizes[a] + sizes[b];
    }
    colours[2 * n - 2] = 0;
    for (let k = n - 2, next = 1; k >= 0; k--) {
      const [a, b] = state.m.slice(2 * k, 2 * k + 2), larger = sizes[a] >= sizes[b] ? a : b;
      colours[larger] = colours[n + k];
      colours[a + b - larger] = next++ % COLOURS.length;
    }
    return Array.from({ length: n }, (_, node) => {
      let box = node;
      while (parent[box] < n + merges) box = parent[box];
      return [box, sizes[box] > 1 ? COLOURS[colours[box]] : GREY];
    });
  };

  const show = () => {
    const chosen = data[network.selectedIndex], states = chosen.layers[layer.value], state = states[epoch.value];
    const n = state.p.length / 2, [shortest, longest] = state.d.map(Math.log1p), share = size.value / 100;
    const length = Math.expm1(shortest + share * (longest - shortest));
    // At its ends the slider is at the shortest edge, which no box holds yet, and just above the longest.
    const merges = [0, 1].includes(share) ? share * (n - 1) : state.h.filter((height) => height < length).length;
    const number = n - merges;
    const boxes = boxesOf(state, n, merges), [rate, low, high] = state.r;
    const at = (node) => [10 + 0.32 * state.p[2 * node], 10 + 0.24 * state.p[2 * node + 1]];

    drawing.innerHTML = Array.from({ length: state.e.length / 2 }, (_, k) => {
      const [a, b] = [state.e[2 * k], state.e[2 * k + 1]], inside = boxes[a][0] === boxes[b][0];
      return line([at(a), at(b)], `stroke="${inside ? boxes[a][1] : "#dfe3e6"}" stroke-width="${inside ? 1.8 : 0.7}"`);
    }).join("") + boxes.map(([, colour], node) => {
      const [x, y] = at(node);
      return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="3.6" fill="${colour}" stroke="#fff" stroke-width="0.6"/>`;
    }).join("");

    const stairs = [[onX(0), onY(1)]];
    state.h.forEach((height, k) => {
      const x = onX(Math.min(Math.max((Math.log1p(height) - shortest) / (longest - shortest), 0), 1));
      stairs.push([x, stairs[stairs.length - 1][1]], [x, onY(Math.log(n - k - 1) / Math.log(n))]);
    });
    curve.innerHTML = axes("ln(1 + box size), shortest to longest edge", "ln N / ln n", ["0", "1"])
      + line([[onX(0), onY(1)], [onX(1), onY(0)]], 'stroke="#0072b2" stroke-dasharray="2 4" stroke-width="1.5"')
      + line(state.c.map((y, k) => [onX(k / (state.c.length - 1)), onY(y)]), `stroke="${INK}" stroke-width="2"`)
      + line(stairs, 'stroke="#882255" stroke-dasharray="6 3" stroke-width="1.5"')
      + line([[onX(share), TOP], [onX(share), BOTTOM]], 'stroke="#d55e00" stroke-width="1.5"')
      + [["paper’s count", INK], ["boxes drawn", "#882255"], ["power law", "#0072b2"]]
        .map(([words, colour], k) => text(RIGHT, TOP + 10 + 15 * k, words, `text-anchor="end" style="fill:${colour}"`)).join("");

    const onEpoch = (k) => onX((k + 0.5) / states.length), onRate = (value) => onY(value / HIGHEST_RATE);
    rates.innerHTML = axes("epoch", "SS rate", ["0", HIGHEST_RATE])
      + states.map(({ r }, k) => `<rect x="${onEpoch(k) - 16}" y="${onRate(r[2])}" width="32" fill="${GREY}"
        height="${Math.max(onRate(r[1]) - onRate(r[2]), 1)}"/>` + text(onEpoch(k), BOTTOM + 15, chosen.epochs[k], 'text-anchor="middle"')).join("")
      + line(states.map(({ r }, k) => [onEpoch(k), onRate(r[0])]), `stroke="${INK}" stroke-width="2"`)
      + states.map(({ r }, k) => `<circle cx="${onEpoch(k)}" cy="${onRate(r[0])}" r="${k === +epoch.value ? 6 : 3}"
        fill="${k === +epoch.value ? "#d55e00" : INK}"/>`).join("")
      + text(RIGHT, TOP + 10, "grey: null band (shuffled)", 'text-anchor="end"');

    epochShown.value = chosen.epochs[epoch.value];
    sizeShown.value = length.toPrecision(2);
    epoch.setAttribute("aria-valuetext", `epoch ${epochShown.value}`);
    size.setAttribute("aria-valuetext", `size ${sizeShown.value}, ${number} boxes`);
    const where = rate < low ? "below" : rate > high ? "above" : "inside";
    status.textContent = `${chosen.name}, ${layer.value}, epoch ${epochShown.value}: ${n} neurons in ${number} `
      + `box${number > 1 ? "es" : ""} of size ${sizeShown.value}. SS rate ${rate}, ${where} the null band `
      + `(${low} to ${high}).`;
    drawing.setAttribute("aria-label", `Feature network: ${n} neurons, each joined to its two nearest, coloured by box. `
      + `There are ${number} boxes.`);
    curve.setAttribute("aria-label", `Box counts fall from ${n} to 1 beside a straight line, the power law. `
      + `At the chosen size there are ${number} boxes.`);
    rates.setAttribute("aria-label", "SS rate and null band by epoch: " + states.map(({ r }, k) =>
      `epoch ${chosen.epochs[k]}: ${r[0]}, band ${r[1]} to ${r[2]}`).join("; "));
  };
  const choose = () => {
    const chosen = data[network.selectedIndex], last = +epoch.value >= +epoch.max;
    options(layer, Object.keys(chosen.layers));
    epoch.max = chosen.epochs.length - 1;
    if (last) epoch.value = epoch.max;
    show();
  };

  options(network, data.map(({ name }) => name));
  epoch.max = epoch.value = data[0].epochs.length - 1;
  network.addEventListener("change", choose);
  for (const control of [layer, epoch, size]) control.addEventListener("input", show);
  place.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  choose();
  place.hidden = false;
  document.querySelectorAll(".without-script").forEach((still) => { still.hidden = true; });
})();
