"use strict";
// Copying the command, and reading the timeline under the pointer. The page says everything without this, too.
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}
const told = (value) => (value === null || value === undefined ? "-" : value + " ms");
for (const picture of document.querySelectorAll("svg.timeline")) {
  const data = JSON.parse(picture.dataset.series);
  const box = document.createElement("div");
  box.className = "reading-box";
  box.hidden = true;
  picture.parentElement.append(box);
  const cursor = picture.querySelector(".cursor");
  picture.addEventListener("pointermove", (event) => {
    const frame = picture.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * picture.viewBox.baseVal.width;
    const slice = Math.floor((x - data.left) / data.scale / data.width);
    const inside = slice >= 0 && slice < data.ok.length;
    picture.classList.toggle("reading", inside);
    box.hidden = !inside;
    if (!inside) return;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    box.textContent =
      `${(slice * data.width).toFixed(1)} s\n${(data.ok[slice] / data.width).toFixed(0)} answers/s\n` +
      `p50 ${told(data.p50[slice])}, p99 ${told(data.p99[slice])}\nworst ${told(data.worst[slice])}\n` +
      `${data.failed[slice]} not executed, ${data.unknown[slice]} unknown`;
    const left = event.clientX - frame.left;
    box.style.left = (left > frame.width - 220 ? left - 210 : left + 14) + "px";
    box.style.top = (event.clientY - frame.top + 12) + "px";
  });
  picture.addEventListener("pointerleave", () => { box.hidden = true; picture.classList.remove("reading"); });
}
