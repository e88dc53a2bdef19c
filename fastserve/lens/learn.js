// learn.js: a lesson's page: send the run, show its picture, compare it with the prediction.
"use strict";
(() => {
  const lesson = document.querySelector("[data-lesson]");
  const seen = new Set((() => { try { return JSON.parse(sessionStorage.getItem("seen")) || []; } catch { return []; } })());
  for (const link of document.querySelectorAll("nav [data-key]")) {
    if (lesson && link.dataset.key === lesson.dataset.lesson) link.setAttribute("aria-current", "page");
    link.classList.toggle("seen", seen.has(link.dataset.key));
  }
  if (!lesson) return;
  const form = document.getElementById("predict"), state = document.getElementById("state"), result = document.getElementById("result");
  const frame = document.getElementById("picture");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const chosen = form.querySelector(":checked"), button = form.querySelector("button");
    if (!chosen) { state.textContent = "Choose one first: that is half the lesson."; return; }
    button.disabled = true;
    state.textContent = "It runs …";
    try {
      const answer = await fetch(`/run/${lesson.dataset.lesson}`, { method: "POST" });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.error || answer.statusText);
      show(told, +chosen.value);
      state.textContent = "";
    } catch (error) {
      state.textContent = `It could not be run: ${error.message}`;
    }
    button.disabled = false;
    button.textContent = "Run it again";
  });

  function show(told, choice) {
    const options = [...form.querySelectorAll(".option")];
    options.forEach((option, index) => {
      option.classList.toggle("right", index === told.answer);
      option.classList.toggle("wrong", index !== told.answer);
    });
    const verdict = document.getElementById("verdict"), right = choice === told.answer;
    const text = options[told.answer].querySelector("span").textContent;
    verdict.className = right ? "right" : "";
    verdict.textContent = !told.held ? `This run was disturbed by something else on this machine; run it again. It should be: ${text}.`
      : right ? `As you predicted. ${text}.` : `Not quite: ${text[0].toLowerCase()}${text.slice(1)}.`;
    document.getElementById("tells").replaceChildren(...told.tells.map((part) => Object.assign(document.createElement("p"), { textContent: part })));
    result.hidden = false;
    frame.addEventListener("load", () => {
      const inside = frame.contentDocument.documentElement;
      const size = () => { frame.style.height = `${frame.contentDocument.body.scrollHeight + 4}px`; };
      new ResizeObserver(size).observe(frame.contentDocument.body);
      size();
      inside.dataset.embedded = "yes";
    }, { once: true });
    frame.src = told.picture;
    result.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    seen.add(lesson.dataset.lesson);
    try { sessionStorage.setItem("seen", JSON.stringify([...seen])); } catch { /* not kept then */ }
  }
})();
