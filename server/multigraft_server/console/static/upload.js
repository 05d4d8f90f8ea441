// Forms with files: how much has been sent, then the page that follows. Without it the browser sends them by itself.

function refusal(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  return page.querySelector(".message.refused")?.textContent.trim() || "";
}

function send(form) {
  const shown = form.querySelector("[data-progress]");
  const bar = shown.querySelector("progress");
  const text = shown.querySelector("[data-progress-text]");
  const request = new XMLHttpRequest();
  const fail = (message) => {
    text.textContent = message;
    bar.hidden = true;
    for (const button of form.querySelectorAll("button")) button.disabled = false;
  };
  shown.hidden = bar.hidden = false;
  bar.value = 0;
  text.textContent = "Sending";
  request.upload.addEventListener("progress", (event) => {
    if (!event.lengthComputable) return;
    bar.value = event.loaded / event.total;
    text.textContent = `Sent ${Math.round((100 * event.loaded) / event.total)}%`;
  });
  request.upload.addEventListener("load", () => {
    bar.removeAttribute("value");
    text.textContent = "Sent; the server checks it";
  });
  request.addEventListener("load", () => {
    const next = request.getResponseHeader("x-console-next");
    if (next) location.assign(next);
    else fail(refusal(request.responseText) || `The server answered with status ${request.status}.`);
  });
  request.addEventListener("error", () => fail("The connection ended. Nothing was kept; send it again."));
  request.open("POST", form.action);
  request.setRequestHeader("x-console-live", "1");
  request.send(new FormData(form));
}

for (const form of document.querySelectorAll("form[data-upload]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form);
  });
}
