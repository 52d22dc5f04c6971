"use strict";
// Draws the figures in the colours of the page, again whenever these change, and for paper.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const touch = matchMedia("(pointer: coarse)").matches;
  const config = { displayModeBar: false, responsive: true, doubleClick: "reset", locale: "en" };

  const palette = () => {
    const style = getComputedStyle(root);
    return (name) => style.getPropertyValue(`--${name}`).trim();
  };

  // "@pass" stands for the colour --pass, where a colour or a font is named and nowhere else.
  const themed = (value, colour, key = "") => {
    if (typeof value === "string") {
      const named = /color|family|scale/.test(key) && value.startsWith("@");
      return named ? colour(value.slice(1)) : value;
    }
    if (Array.isArray(value)) {
      return /^(z|x|y|customdata)$/.test(key) ? value : value.map((v) => themed(v, colour, key));
    }
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, colour, k)]));
  };

  // On a narrow screen every second label of an axis has to go, until they fit.
  const roomy = (axis, width) => {
    while (axis.tickvals?.length > 3 && axis.tickvals.length * 48 > width - 120) {
      const one = axis.ticktext.indexOf("\u00d71") % 2;
      for (const part of ["tickvals", "ticktext"]) {
        axis[part] = axis[part].filter((_, index) => index % 2 === Math.max(one, 0));
      }
    }
  };

  const draw = (name, width) => {
    const { data, layout } = themed(figures[name], palette());
    if (touch) layout.dragmode = false; // a finger scrolls the page
    roomy(layout.xaxis, place(name).clientWidth);
    if (width) Object.assign(layout, { width: Math.min(width, place(name).clientWidth || width) });
    return Plotly.react(place(name), data, layout, config);
  };
  const place = (name) => document.getElementById(name);
  const names = Object.keys(figures).filter(place);

  let turn = 0;
  const drawAll = () => {
    const mine = ++turn;
    root.dataset.figures = "drawing";
    const next = async (index) => {
      if (mine !== turn) return;
      if (index === names.length) {
        root.dataset.figures = "drawn";
        return;
      }
      await draw(names[index]);
      setTimeout(next, 0, index + 1); // between two figures the page stays usable
    };
    next(0);
  };

  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    turn++;
    root.dataset.paper = "";
    names.forEach((name) => draw(name, 660));
  });
  addEventListener("afterprint", () => {
    delete root.dataset.paper;
    drawAll();
  });
})();
