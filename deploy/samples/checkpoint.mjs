// Asks Soloist's session API from a server: right after a login, and at each later request of that user.
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

const { API_URL, APP_KEY } = process.env;

async function ask(method, path, bearer, body) {
  const headers = { authorization: `Bearer ${bearer}`, "content-type": "application/json" };
  for (const waitSecondsMax of [3, 0]) {
    const request = new Request(API_URL + path, { method, headers, body: body && JSON.stringify(body) });
    const response = await fetch(request, { signal: AbortSignal.timeout(5000) }).catch(() => null);
    if (!response) break;
    if (response.ok) return response.json();
    const text = await response.text();
    if (response.status < 500 && response.status !== 429) throw new Error(`${response.status} ${text}`); // A mistake.
    const waitSeconds = Number(response.headers.get("retry-after") ?? NaN);
    if (!(waitSeconds <= waitSecondsMax)) break;
    await pause(waitSeconds * 1000);
  }
  return { verdict: "allow", reason: "unavailable" }; // Fails open; "deny" fails closed: you decide.
}

let token;
for await (const line of createInterface({ input: process.stdin })) {
  const path = token ? "/verdict" : "/checkpoint";
  token ??= line;
  const { verdict, reason } = await ask("POST", path, APP_KEY, { token });
  console.log(verdict, reason ?? "");
  if (!["allow", "not_known_evicted", "unknown"].includes(verdict)) process.exit(1);
  const { sessions = [] } = await ask("GET", "/me/sessions", token);
  for (const { session, label, current } of sessions) {
    const end = line === `end ${session}` || (line === "end others" && !current);
    const ended = end && "ended" in (await ask("DELETE", `/me/sessions/${session}`, token));
    console.log(session, JSON.stringify(label), `current=${current} ended=${ended}`);
  }
}
