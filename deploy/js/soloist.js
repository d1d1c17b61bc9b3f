/** The session API of Soloist for web pages; soloist.d.ts says what each part does. */

const CALL_MS = 30_000; // the longest that a call may take
const PAUSE_MIN_MS = 1_000; // between two streams
const PAUSE_MAX_MS = 30_000;
const ASKED_MAX_MS = 600_000; // the same, asked for by the service
const SILENCE_MS = 45_000; // a good stream says something every 15 s
const EVENT_CHARS_MAX = 65_536;
const URN = "urn:soloist:problem:";

export class SoloistError extends Error {
  constructor(status, type, detail, retryAfter, cause) {
    super(detail, { cause });
    Object.assign(this, { name: "SoloistError", status, type, detail, retryAfter });
  }
}

function unreachable(cause) {
  throw new SoloistError(0, `${URN}unreachable`, "the service cannot be reached: try again", undefined, cause);
}

async function refused(response) {
  const { type = "about:blank", detail = "refused" } = await response.json().catch(() => ({}));
  const seconds = parseInt(response.headers.get("retry-after"), 10);
  return new SoloistError(response.status, type, detail, seconds >= 0 ? seconds : undefined);
}

/** Resolves after `ms`, or when it is aborted. The signal is ours alone. */
const pause = (ms, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, signal.aborted ? 0 : ms);
    signal.onabort = () => resolve(clearTimeout(timer));
  });

/** The server-sent events of a body. */
async function* events(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, event, size] = ["", {}, 0];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    size += value.length;
    if (size > EVENT_CHARS_MAX) throw new Error("an event is too long");
    // A CR at the end may be half of a CRLF.
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, text] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
      if (line === "") {
        yield event;
        [event, size] = [{}, 0];
      } else if (field === "data" && "data" in event) event.data += `\n${text}`;
      else event[field] = text;
    }
  }
}

export function createSoloist({ baseUrl, getToken, tenant, fetch = globalThis.fetch }) {
  const base = `${baseUrl.replace(/\/+$/, "")}/v1`;

  async function tokenNow() {
    const token = await getToken();
    if (!token) throw new SoloistError(401, `${URN}unauthenticated`, "there is no token: sign in first");
    return token;
  }

  /** The token goes into a header, never into an address, which logs keep. */
  async function send(method, path, token, signal, body, more) {
    const headers = { ...more, authorization: `Bearer ${token}` };
    if (tenant) headers["soloist-tenant"] = tenant;
    if (body) headers["content-type"] = "application/json";
    const how = { method, headers, body, signal, cache: "no-store", credentials: "omit", redirect: "error" };
    const response = await fetch(base + path, how).catch(unreachable);
    if (!response.ok) throw await refused(response);
    return response;
  }

  async function ask(method, path, body, token) {
    token ??= await tokenNow();
    const response = await send(method, path, token, AbortSignal.timeout(CALL_MS), body);
    return response.json().catch(unreachable);
  }

  /** Why the session ended, `null` if that was heard before, `undefined` if only the stream ended. */
  async function stream(token, heard, stopped) {
    const cut = new AbortController();
    const signal = AbortSignal.any([stopped, cut.signal]);
    let silence;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => cut.abort(), SILENCE_MS);
    };
    try {
      alive();
      const more = heard.id ? { "last-event-id": heard.id } : {};
      const response = await send("GET", "/events", token, signal, undefined, more);
      if (response.status === 204) return null;
      for await (const { event, id, data } of events(response.body, alive)) {
        if (event === "session.revoked") return JSON.parse(data);
        heard.id = id ?? heard.id;
      }
    } catch (error) {
      if (error.type === `${URN}session_ended`) return ask("POST", "/why", undefined, token);
      throw error;
    } finally {
      clearTimeout(silence);
      cut.abort();
    }
  }

  /** Stream after stream, until one says why. */
  async function listen(stopped, onError) {
    let [heard, longest, dead] = [{}, 2 * PAUSE_MIN_MS];
    while (!stopped.aborted) {
      const began = Date.now();
      let [asked, token] = [0];
      try {
        token = await tokenNow();
        // A token that was refused is not shown again.
        const why = token === dead ? undefined : await stream(token, heard, stopped);
        if (why !== undefined) return why;
      } catch (error) {
        if (stopped.aborted) return;
        if (error.status === 401) dead = token;
        asked = Math.min((error.retryAfter ?? 0) * 1_000, ASKED_MAX_MS);
        onError?.(error);
      }
      if (Date.now() - began > PAUSE_MAX_MS) longest = 2 * PAUSE_MIN_MS;
      await pause(Math.max(asked, PAUSE_MIN_MS + Math.random() * (longest - PAUSE_MIN_MS)), stopped);
      longest = Math.min(2 * longest, PAUSE_MAX_MS);
    }
  }

  const session = (id) => `/me/sessions/${encodeURIComponent(id)}`;
  return {
    checkpoint: () => ask("POST", "/checkpoint", "{}"),
    sessions(page = {}) {
      const given = Object.entries(page).filter(([, value]) => value != null);
      return ask("GET", `/me/sessions?${new URLSearchParams(given)}`);
    },
    endSession: (id) => ask("DELETE", session(id)),
    endOthers: () => ask("POST", "/me/sessions/end-others"),
    pin: (id) => ask("POST", `${session(id)}/pin`),
    why: () => ask("POST", "/why"),
    onRevoked(callback, { signal, onError } = {}) {
      const stop = new AbortController();
      const stopped = AbortSignal.any(signal ? [signal, stop.signal] : [stop.signal]);
      listen(stopped, onError).then((why) => why && !stopped.aborted && callback(why));
      return () => stop.abort();
    },
  };
}
