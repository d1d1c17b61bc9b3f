//! Soloist keeps each account of a LoginRadius customer on as many devices as its plan allows.
//!
//! LoginRadius tells of logins by webhook. Soloist makes each one durable, lists the user's active sessions, and ends
//! the surplus ones. The webhook names no session, comes once or not at all, and there is none for a logout: so an event
//! means only *look at this user again*, and all that is decided comes from the list.
//!
//! ```text
//! LoginRadius ── POST ──► webhook ──publish──► queue ──deliver──► worker ──► provider: list, revoke, list again
//!             ◄── 202 ────┘ signature, uid     fsync, or a        │  ▲
//! other services ── message on soloist.logins ─► broker's confirm │  │
//!                                                                 │  ├── policy: which sessions stay (pure)
//!                                                                 │  └── directives: what holds for whom, now
//!                                                                 └────► ledger: intent before, outcome after
//! apps, operators ── cli ──► api: sessions, checkpoint, enforce, decisions, directives, dead letters, metrics, probes
//! ```
//!
//! # Where is what
//!
//! | module | what |
//! |---|---|
//! | [`model`] | the nouns: events, users, sessions, tokens that cannot be printed |
//! | [`message`] | reading what others send, tolerantly, and the one form that we write |
//! | [`webhook`] | stage 1: authenticate, take tenant, uid, id and times, make durable, answer 202 |
//! | [`queue`] | stage 2: keep messages until they are settled; one SQLite file, or RabbitMQ with that file as its spool |
//! | [`worker`] | stage 3: the step, and around it coalescing, rate, outage and pause, drain |
//! | [`policy`] | stage 4: the rule, a function from a list and a policy to a decision; how policies are written and layered |
//! | [`provider`] | stage 5: LoginRadius; its errors sorted by what to do next |
//! | [`probe`] | measuring what a tenant's LoginRadius really does, with a test user |
//! | [`retry`] | after this failure at this attempt: how long to wait |
//! | [`directives`] | what workers must obey now: policies, what people and brakes decided; one process tells all |
//! | [`ledger`] | what was decided, what came of it; kept here or sent to the machine that keeps it |
//! | [`notify`] | tells other systems of ended sessions, contended users and spent budgets, durably |
//! | [`sweep`] | looks at every known user again and again, so that a lost event costs only time |
//! | [`api`] | the session API for apps, the private admin API, probes, metrics |
//! | [`config`] | every option: name, default, grammar, check |
//! | [`telemetry`] | the log, and every metric's name |
//! | [`http`], [`clock`] | listeners with limits; the one place that reads the time |
//! | [`app`] | builds the parts, runs them together, stops them together |
//! | [`cli`] | the commands |
//! | [`sandbox`] | a LoginRadius emulator, written without the types of [`provider`], so that one mistake cannot pass twice |
//!
//! To begin reading: [`worker::TenantEnforcer`] is one look at one user, [`policy::decide`] the rule, and
//! [`queue::Queue`] what a backend promises. Who may use whom is in `tests/tidy.rs`, which checks it.
//!
//! # What always holds
//!
//! Most of these say that something is *not* there.
//!
//! - No event is answered 2xx before it is on disk here, or the broker has confirmed it.
//! - No decision looks at the event that woke us: only at the list of this moment. Its inputs are no clock, no chance, no
//!   I/O, so the same list gives the same decision everywhere.
//! - No order of events, no lock and no leader is needed: a look may run twice, late, or beside another at the same user,
//!   and the second changes nothing.
//! - No session is ended without a list, without the profile where a rule or an exemption needs one, without directives,
//!   or without a durable intent (which a worker that keeps no ledger may be told to do without: that is counted). What
//!   is missing is waited for, never guessed.
//! - No used-up budget is renewed by itself: the tenant is only observed until a person says otherwise. A worker that does
//!   not hear the process that decides ends nobody either, once what it has heard is too old.
//! - No decision of a person is thrown away with the history: directives have a file of their own, and nothing starts with
//!   a damaged one.
//! - No notice about an ended session is lost while it waits, goes into a private network unasked, or says more than ids,
//!   device words and texts.
//! - No lost event costs more than time: the sweep looks at everybody known, with the calls that logins leave over.
//! - No stored work says "end this session": only "look at this user". A retry decides anew.
//! - No failure is swallowed or tried for ever: each is sorted by what happens next, and an outage spends no attempt.
//! - No token is logged, stored, queued or shown; and none is in a URL, but where LoginRadius takes it there only:
//!   a listing by token, and the refresh of a probe's own session.
//! - No loop, body, page count, attempt, queue or wait is without a limit that has a name and a unit.
//! - No blocking lock is held across an await, and no task is detached: a part that ends early ends the process with a
//!   failure. Where callers wait for their turn, they wait in an asynchronous lock, which is a queue.
//! - No tenant in trouble delays another: each has its own worker, rate and pause.
//! - No secret has a type that can be printed.

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod directives;
pub mod http;
pub mod ledger;
pub mod message;
pub mod model;
pub mod notify;
pub mod policy;
pub mod probe;
pub mod provider;
pub mod queue;
pub mod retry;
pub mod sandbox;
mod sqlite;
pub mod sweep;
pub mod telemetry;
pub mod webhook;
pub mod worker;
