/** An answer that is no success, or none at all. */
export class SoloistError extends Error {
  readonly name: "SoloistError";
  /** The HTTP status; 0 where the service could not be reached. */
  readonly status: number;
  /** Stable: `urn:soloist:problem:session_ended`, `…:unauthenticated`, `…:unreachable` and so on. */
  readonly type: string;
  /** For developers. */
  readonly detail: string;
  /** Seconds to wait before the next try. */
  readonly retryAfter?: number;
}

export interface Options {
  /** Where the service is: `https://soloist.example`. */
  baseUrl: string;
  /** The access token of the user; it is asked before each call. */
  getToken: () => string | null | undefined | Promise<string | null | undefined>;
  /** Where the service works for several tenants. */
  tenant?: string;
  /** Used instead of the browser's own. */
  fetch?: typeof globalThis.fetch;
}

export interface Session {
  /** 32 hex digits; good only together with its user. */
  session: string;
  /** This is the one that asks. */
  current: boolean;
  /** "Chrome on Windows" */
  label: string;
  browser: string | null;
  os: string | null;
  device: string | null;
  device_type: string | null;
  city: string | null;
  country: string | null;
  ip: string | null;
  /** RFC 3339, in UTC. */
  login_at: string | null;
  /** Sessions of the same device that this one stands for, itself included. */
  sessions: number;
}

export interface Sessions {
  uid: string;
  session_count: number;
  device_count: number;
  /** False where rows of the listing were missing. */
  complete: boolean;
  /** Newest login first. */
  sessions: Session[];
  next_cursor: string | null;
}

export interface Page {
  /** Show one session for each device. */
  collapse?: boolean;
  /** Sessions on one page: 1 to 200. */
  limit?: number;
  /** `next_cursor` of the page before. */
  cursor?: string;
}

export interface Device {
  session: string;
  label: string;
  device_type: string | null;
  os: string | null;
  browser: string | null;
  login_at: string | null;
}

export interface Checkpoint {
  verdict: "allow" | "deny";
  reason: "within_limit" | "displaces_older" | "over_limit" | "not_enforced" | "unclear";
  mode: "enforce" | "observe" | "off";
  strategy: "evict_oldest" | "reject_newest";
  device_count: number;
  session_count: number;
  /** Sessions that the rule ends. */
  would_end: Device[];
  /** The session that asks was ended. */
  ended: boolean;
  complete: boolean;
}

export interface Ended {
  ended: { session: string; ended: unknown }[];
}

/** All is null where it is not known, or not so. */
export interface Why {
  /** `displaced_by_newer_login`, `chosen_by_user` and so on. */
  reason: string | null;
  /** The same for people, in English. */
  text: string | null;
  /** RFC 3339, in UTC. */
  at: string | null;
  /** The kind of device that took over. */
  by_device_type: string | null;
  /** Where it is, if the operator allows that to be told. */
  by_place: string | null;
}

export interface Listening {
  /** Stops listening when it is aborted. */
  signal?: AbortSignal;
  /** Told of each try that failed; the next one comes by itself. */
  onError?: (error: unknown) => void;
}

export interface Soloist {
  /** Whether this login may go on. */
  checkpoint(): Promise<Checkpoint>;
  /** The user's devices. */
  sessions(page?: Page): Promise<Sessions>;
  /** Ends one session of the user, also the one that asks. */
  endSession(id: string): Promise<Ended>;
  /** Ends all sessions but the one that asks, which must have logged in within the last ten minutes. */
  endOthers(): Promise<Ended>;
  /** Keeps a device: newer logins do not end it. Needs a login of the last ten minutes. */
  pin(id: string): Promise<{ pinned: string }>;
  /** Why the session of this token was ended. */
  why(): Promise<Why>;
  /** Calls back once, when the session has ended. Returns a function that stops it. */
  onRevoked(callback: (why: Why) => void, listening?: Listening): () => void;
}

export function createSoloist(options: Options): Soloist;
