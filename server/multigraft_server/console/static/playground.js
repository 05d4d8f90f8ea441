// Answers of chats, as they come: each column reads its own stream of server-sent events.

const PLACE = document.querySelector("[data-csrf]");

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }
}

function stopButton(column, abort) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small";
  button.textContent = "Stop";
  button.addEventListener("click", () => abort.abort());
  column.querySelector("[data-answer]").after(button);
  return button;
}

async function ask(column) {
  const answer = column.querySelector("[data-answer]");
  const abort = new AbortController();
  const button = stopButton(column, abort);
  const began = performance.now();
  let first = 0;
  let count = 0;
  const latency = (end) => {
    const told = `first token ${Math.round(first - began)} ms`;
    return end ? `${told}, whole ${Math.round(end - began)} ms, ${count} tokens` : told;
  };
  answer.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(`/console/playground/chat?csrf=${PLACE.dataset.csrf}`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-console-live": "1" },
      signal: abort.signal,
      body: JSON.stringify({
        model: column.dataset.ref,
        messages: [{ role: "user", content: document.getElementById("text").value }],
        max_tokens: Number(document.getElementById("tokens").value),
        temperature: 0,
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!response.ok) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      throw new Error(page.querySelector(".message.refused")?.textContent || `status ${response.status}`);
    }
    showHead(column, response.headers);
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) count = event.usage.completion_tokens;
      const text = event.choices[0]?.delta.content;
      if (!text) continue;
      first ||= performance.now();
      answer.append(text);
      column.querySelector("[data-latency]").textContent = latency(0);
    }
    first ||= performance.now();
    column.querySelector("[data-latency]").textContent = latency(performance.now());
  } catch (error) {
    const told = document.createElement("p");
    told.className = abort.signal.aborted ? "hint" : "message refused";
    told.textContent = abort.signal.aborted ? "Stopped." : error.message;
    answer.after(told);
  }
  answer.removeAttribute("aria-busy");
  column.dataset.chat = "done";
  button.remove();
}

function showHead(column, headers) {
  const version = headers.get("x-multigraft-version");
  const digest = headers.get("x-multigraft-adapter");
  const isBase = version === "base";
  column.querySelector("[data-version]").textContent = isBase ? "the base" : version;
  column.querySelector("[data-digest]").textContent = digest.replace("sha256:", "").slice(0, 12);
  column.querySelector("[data-digest]").title = digest;
  if (!isBase) column.querySelector("[data-name]").textContent = `${headers.get("x-multigraft-task")}@${version}`;
}

for (const column of document.querySelectorAll("[data-chat]")) ask(column);
