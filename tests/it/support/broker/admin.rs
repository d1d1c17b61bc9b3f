//! What an operator may ask of a running node. By Erlang terms where it can be: a call costs 4 ms, `rabbitmqctl` a second.

use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::node::PAUSE;
use super::{Broker, PROGRAMS};
use crate::support::soon;

/// Numbers the callers of nodes: a node refuses two of one name at a time, and by default all have the same.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Broker {
    /// `rabbitmqctl` with these arguments; what it prints.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = self.command(&format!("{PROGRAMS}/rabbitmqctl"));
        let output = soon("rabbitmqctl", command.args(arguments).stdin(Stdio::null()).output()).await.unwrap();
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {stderr}{stdout}");
        stdout
    }

    /// The value of an Erlang expression in the node, as Erlang writes it on one line.
    pub(crate) async fn eval(&self, expression: &str) -> String {
        let mut command = self.command("erl_call");
        let caller = format!("caller{}", CALLS.fetch_add(1, Ordering::Relaxed));
        let node = format!("{}@localhost", self.name);
        command.args(["-h", &caller, "-sname", &node, "-c", &self.home.cookie, "-e"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // In hexadecimal, because `erl_call` prints no binaries and escapes nothing.
        let asked = format!(
            "binary_to_list(binary:encode_hex(unicode:characters_to_binary(io_lib:format(\"~0tp\", [begin {expression} end])))).\n"
        );
        child.stdin.take().unwrap().write_all(asked.as_bytes()).await.unwrap();
        let output = soon("the node to evaluate", child.wait_with_output()).await.unwrap();
        let (stdout, stderr) = texts(&output);
        let value = stdout.trim().strip_prefix("{ok, \"").and_then(|rest| rest.strip_suffix("\"}"));
        let value = value.unwrap_or_else(|| panic!("{expression}: {stdout}{stderr}"));
        String::from_utf8(hex::decode(value).unwrap()).unwrap()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(self.environment()).kill_on_drop(true);
        command
    }

    async fn eval_ok(&self, expression: &str) {
        assert_eq!(self.eval(expression).await, "ok", "{expression}");
    }

    pub(super) async fn make_vhosts(&self, names: &[String]) {
        let names: Vec<String> = names.iter().map(|name| binary(name)).collect();
        self.eval_ok(&format!(
            "lists:foreach(fun(V) -> ok = rabbit_vhost:add(V, <<\"test\">>), \
             ok = rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, V, <<\".*\">>, <<\".*\">>, <<\".*\">>, \
             <<\"test\">>) end, [{}])",
            names.join(", ")
        ))
        .await;
    }

    /// A user who may do in `vhost` only what the three patterns allow.
    pub(crate) async fn add_user(&self, name: &str, password: &str, vhost: &str, [configure, write, read]: [&str; 3]) {
        let [name, password, vhost] = [name, password, vhost].map(binary);
        let [configure, write, read] = [configure, write, read].map(binary);
        self.eval_ok(&format!(
            "ok = rabbit_auth_backend_internal:add_user({name}, {password}, <<\"test\">>), \
             rabbit_auth_backend_internal:set_permissions({name}, {vhost}, {configure}, {write}, {read}, <<\"test\">>)"
        ))
        .await;
    }

    /// Publishers are blocked while it is on.
    pub(crate) async fn memory_alarm(&self, on: bool) {
        let limit = if on { "1MB" } else { "1GB" };
        self.eval_ok(&format!("vm_memory_monitor:set_vm_memory_high_watermark({{absolute, \"{limit}\"}})")).await;
    }

    /// Publishers are blocked while it is on.
    pub(crate) async fn disk_alarm(&self, on: bool) {
        let limit = if on { "100000GB" } else { "50MB" };
        self.eval_ok(&format!("rabbit_disk_monitor:set_disk_free_limit(\"{limit}\")")).await;
    }

    /// Every connection of clients to this node, from the node's side.
    pub(crate) async fn close_all_connections(&self) {
        self.eval_ok("rabbit_networking:close_connections(rabbit_networking:connections_local(), \"bye\")").await;
    }

    /// The connections of this vhost that have this word in their name, from the node's side.
    pub(crate) async fn close_connections_named(&self, vhost: &str, word: &str) {
        let (vhost, word) = (binary(vhost), binary(word));
        self.eval_ok(&format!(
            "Named = fun(Pid) -> [{{vhost, V}}, {{client_properties, P}}] = \
             rabbit_networking:connection_info(Pid, [vhost, client_properties]), \
             {{_, _, Name}} = lists:keyfind(<<\"connection_name\">>, 1, P), \
             V =:= {vhost} andalso binary:match(Name, {word}) =/= nomatch end, \
             [_ | _] = Pids = lists:filter(Named, rabbit_networking:connections_local()), \
             rabbit_networking:close_connections(Pids, \"bye\")"
        ))
        .await;
    }

    /// While it is off, a quorum queue takes messages and confirms none.
    pub(crate) async fn confirm(&self, vhost: &str, queue: &str, on: bool) {
        let resume = if on { "resume" } else { "suspend" };
        let queue = resource(vhost, queue);
        self.eval_ok(&format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup({queue}), {{Name, _}} = amqqueue:get_pid(Q), sys:{resume}(Name)"
        ))
        .await;
    }

    /// Deletes the queue with all that is in it.
    pub(crate) async fn delete_queue(&self, vhost: &str, queue: &str) {
        self.eval_ok(&format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup({}), \
             {{ok, _}} = rabbit_amqqueue:delete(Q, false, false, <<\"test\">>), ok",
            resource(vhost, queue)
        ))
        .await;
    }

    /// All its messages: ready, handed out and on their way to the dead letters; `None` when there is no such queue.
    pub(crate) async fn queue_depth(&self, vhost: &str, queue: &str) -> Option<u64> {
        // A quorum queue's own figure of messages is up to five seconds old: only its leader knows.
        let expression = format!(
            "case rabbit_amqqueue:lookup({}) of \
             {{error, not_found}} -> none; \
             {{ok, Q}} -> case {{amqqueue:get_type(Q), amqqueue:get_pid(Q)}} of \
               {{rabbit_quorum_queue, {{Name, _}}}} -> \
                 case ra:leader_query({{Name, node()}}, fun rabbit_fifo:query_messages_total/1) of \
                   {{ok, {{_, N}}, _}} -> N; _ -> unknown end; \
               _ -> [{{messages, N}}] = rabbit_amqqueue:info(Q, [messages]), N \
             end end",
            resource(vhost, queue)
        );
        let depth = self.known(&expression).await;
        (depth != "none").then(|| depth.parse().unwrap())
    }

    /// The node that leads a quorum queue, as its members see it now.
    pub(super) async fn leader_name(&self, vhost: &str, queue: &str) -> String {
        let expression = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup({}), {{Name, _}} = amqqueue:get_pid(Q), \
             case ra:members({{Name, node()}}) of {{ok, _, {{_, Leader}}}} -> Leader; _ -> unknown end",
            resource(vhost, queue)
        );
        self.known(&expression).await
    }

    /// The value as soon as it is not `unknown`: a queue has no leader while one is elected.
    async fn known(&self, expression: &str) -> String {
        soon("a queue to have a leader", async {
            let mut pause = tokio::time::interval(PAUSE);
            loop {
                pause.tick().await;
                let value = self.eval(expression).await;
                if value != "unknown" {
                    return value;
                }
            }
        })
        .await
    }
}

/// An Erlang term that names a queue.
pub(crate) fn resource(vhost: &str, queue: &str) -> String {
    format!("rabbit_misc:r({}, queue, {})", binary(vhost), binary(queue))
}

/// An Erlang binary of a text.
pub(crate) fn binary(text: &str) -> String {
    format!("<<\"{}\"/utf8>>", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
