"use strict";
// Everything from models and attacks reaches the page through text nodes; no markup is ever made from it.
(() => {
  const PAGE = 12;
  const byId = (id) => document.getElementById(id);
  let cache;
  let hidden;

  function load() {
    if (!cache) {
      cache = JSON.parse(byId("case-data").textContent);
      hidden = new RegExp(cache.hidden, "gu");
    }
    return cache;
  }

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined && text !== null) addText(node, text);
    return node;
  }

  // Characters that hide or reorder become visible code points.
  function addText(node, text) {
    let from = 0;
    for (const match of text.matchAll(hidden)) {
      if (match.index > from) node.append(text.slice(from, match.index));
      const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      const mark = document.createElement("span");
      mark.className = "inv";
      mark.title = "a character that cannot be seen";
      mark.textContent = `\u27e8U+${code}\u27e9`;
      node.append(mark);
      from = match.index + match[0].length;
    }
    if (from < text.length) node.append(text.slice(from));
  }

  function hostile(tag, className, text, language) {
    const node = make(tag, className, text);
    node.dir = "auto";
    if (language) node.lang = language;
    return node;
  }

  function answerNode(answer, version, language, turn) {
    const box = make("div", "answer");
    const head = make("p", "answer-head", version.title);
    box.append(head);
    if (!answer) {
      head.append(make("span", "", "not measured"));
      return box;
    }
    const [text, label, stop, error] = answer;
    head.append(make("span", error ? "is-error" : turn > 0 ? "safer" : turn < 0 ? "worse" : "", error ? "errored" : label || "not judged"));
    if (error) box.append(hostile("p", "answer-text is-error", error));
    if (text === null || text === "") {
      box.append(make("p", "answer-text none", text === "" ? "(empty answer)" : "no answer was stored"));
      return box;
    }
    const body = hostile("p", "answer-text", text, language);
    box.append(body);
    const long = text.length > 420 || (text.match(/\n/g) || []).length > 6;
    if (long) box.append(folding(body));
    if (stop && stop !== "stop") box.append(make("p", "note", `stopped: ${stop}`));
    return box;
  }

  function folding(body) {
    const button = make("button", "link", "Show all");
    button.type = "button";
    body.classList.add("short");
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const short = body.classList.toggle("short");
      button.textContent = short ? "Show all" : "Show less";
      button.setAttribute("aria-expanded", String(!short));
    });
    return button;
  }

  function caseHead(item, data) {
    const head = make("div", "case-head");
    const link = make("a", "", item.id);
    link.href = "#case:" + encodeURIComponent(item.id);
    head.append(link);
    for (const part of [item.suite, item.category, item.languageTitle, item.attack && `attack: ${item.attack}`]) {
      if (part) head.append(make("span", "", part));
    }
    for (const [pair, direction, metric] of item.flips) {
      const words = direction > 0 ? "▲ safer" : "▼ worse";
      const note = make("span", direction > 0 ? "safer" : "worse", `${words}: ${data.pairs[pair].title}`);
      note.title = metric;
      head.append(note);
    }
    return head;
  }

  function caseNode(item, every) {
    const data = load();
    const box = make("article", "case");
    box.append(caseHead(item, data));
    if (item.prompt === null) {
      box.append(make("p", "none", "The transcript of this case was not stored."));
      return box;
    }
    for (const [role, text] of item.messages || []) {
      const turn = hostile("p", "case-turn", "", item.language);
      turn.append(make("b", "", `${role}: `));
      addText(turn, text);
      box.append(turn);
    }
    if (!item.messages) {
      const prompt = hostile("p", "case-prompt", item.prompt, item.language);
      box.append(prompt);
      if (item.prompt.length > 600) {
        prompt.classList.add("long");
        box.append(folding(prompt));
      }
    }
    const answers = make("div", "answers");
    item.answers.forEach((answer, i) => {
      const turn = (item.flips.find(([pair]) => data.pairs[pair].to === i) || [0, 0])[1];
      const shown = item.attack && !every ? answer : every || data.preferred.includes(i);
      if (shown) answers.append(answerNode(answer, data.versions[i], item.language, turn));
    });
    if (!answers.childElementCount) answers.append(make("p", "none", "No answer was stored."));
    box.append(answers);
    return box;
  }

  function matches(item, want) {
    const flips = item.flips.filter(
      ([pair, direction]) =>
        (want.pair === "" || pair === Number(want.pair)) && (want.direction === "" || direction === Number(want.direction)),
    );
    if ((want.show === "flipped" || want.pair !== "" || want.direction !== "") && !flips.length) return false;
    if (want.suite && item.suite !== want.suite) return false;
    if (want.language && item.language !== want.language) return false;
    if (!want.text) return true;
    const heap = [item.id, item.prompt || "", ...(item.answers || []).map((a) => (a && a[0]) || "")];
    return heap.some((t) => t.toLowerCase().includes(want.text));
  }

  const worst = (item) => Math.min(1, ...item.flips.map((f) => f[1]));

  function caseList(form) {
    const list = byId("case-list");
    const more = byId("case-more");
    let found = [];
    let shown = 0;

    const every = () => form.elements.every.checked;
    function grow() {
      const next = found.slice(shown, shown + PAGE);
      list.append(...next.map((item) => caseNode(item, every())));
      shown += next.length;
      more.hidden = shown >= found.length;
    }
    function refresh() {
      const want = Object.fromEntries(new FormData(form));
      want.text = (want.text || "").toLowerCase();
      found = load().cases.filter((item) => matches(item, want));
      found.sort((a, b) => worst(a) - worst(b));
      shown = 0;
      list.replaceChildren();
      const worse = found.filter((item) => worst(item) < 0).length;
      const flipped = found.filter((item) => item.flips.length).length;
      byId("case-count").textContent =
        `${found.length} case${found.length === 1 ? "" : "s"}, ${flipped} flipped; ` +
        `${worse} of them got worse between some pair of versions and come first.`;
      grow();
    }
    form.addEventListener("input", refresh);
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", grow);
    return refresh;
  }

  function openViewer(title, note, items, every) {
    load();
    const list = byId("viewer-list");
    byId("viewer-title").replaceChildren();
    byId("viewer-note").replaceChildren();
    addText(byId("viewer-title"), title);
    addText(byId("viewer-note"), note);
    list.replaceChildren(...items.slice(0, 60).map((item) => caseNode(item, every)));
    if (!items.length) list.append(make("p", "missing", "No transcripts were stored for this."));
    if (items.length > 60) list.append(make("p", "note", `${items.length - 60} more are not shown here.`));
    byId("viewer").showModal();
  }

  function findingLink([anchor, words]) {
    const line = make("p", "found", "Finding ");
    const link = make("a", "", words);
    link.href = "#" + anchor;
    link.addEventListener("click", () => byId("viewer").close());
    line.append(link);
    return line;
  }

  function openHash() {
    if (!location.hash.startsWith("#case:")) return;
    const data = load();
    let id;
    try {
      id = decodeURIComponent(location.hash.slice(6));
    } catch {
      return;
    }
    const item = data.cases.find((c) => c.id === id);
    openViewer(item ? "Transcript" : "No such case", "", item ? [item] : [], true);
  }

  function openFinding() {
    const target = location.hash.length > 1 && byId(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  }

  const form = byId("filters");
  const refresh = form && caseList(form);
  if (refresh) {
    const start = () => refresh();
    if ("IntersectionObserver" in window) {
      const seen = new IntersectionObserver(
        (entries) => {
          if (!entries.some((e) => e.isIntersecting)) return;
          seen.disconnect();
          start();
        },
        { rootMargin: "800px" },
      );
      seen.observe(form);
      addEventListener("beforeprint", () => byId("case-list").childElementCount || start());
    } else start();
  }

  document.addEventListener("click", (event) => {
    const cell = event.target.closest("[data-cell]");
    if (cell) {
      const data = load();
      const { title, note, cases, found } = data.cells[Number(cell.dataset.cell)];
      openViewer(title, note || "", cases.map((i) => data.cases[i]), false);
      byId("viewer-list").prepend(...found.map(findingLink));
    }
    const link = event.target.closest("[data-suite]");
    if (link && form) {
      form.reset();
      form.elements.show.value = "all";
      form.elements.suite.value = link.dataset.suite;
      form.elements.language.value = link.dataset.language;
      refresh();
    }
  });
  const viewer = byId("viewer");
  byId("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  viewer.addEventListener("close", () => {
    if (location.hash.startsWith("#case:")) history.replaceState(null, "", location.pathname + location.search);
  });
  addEventListener("hashchange", () => {
    openHash();
    openFinding();
  });
  openHash();
  openFinding();
})();
