"use strict";
// Pages work without this file.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
for (const time of document.querySelectorAll("time")) {
  time.title = time.textContent;
  time.textContent = new Date(time.dateTime).toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
}
for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
    document.getElementById("copied").textContent = "Copied";
  });
}
// A login returns to the fragment too, which only the browser knows.
if (location.hash) {
  for (const link of document.querySelectorAll("a[data-return]")) {
    const url = new URL(link.href);
    url.searchParams.set("rd", (url.searchParams.get("rd") || "/") + location.hash);
    link.href = url;
  }
}
for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "1";
  });
}
