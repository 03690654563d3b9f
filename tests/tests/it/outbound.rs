//! A node talks to nobody that its configuration does not name.
//!
//! ONNX Runtime, if it is not silenced, makes its folder in HOME as soon as it is loaded, and looks its host up
//! seconds later: the first is what this test is sure to see, the second what it may.

use std::{env, fs, path::Path, process::Command, time::Duration};

use colony_tests::{Folder, Node, command, eventually, offline, run_within, skipped};

/// For the models, if they are not here yet.
const FETCH_WITHIN: Duration = Duration::from_secs(600);

/// The tracer has only to write down what it has seen.
const TRACED_WITHIN: Duration = Duration::from_secs(60);

/// System calls by which a process reaches out, or prepares to, in a line of a trace.
fn reaches_out(line: &str) -> bool {
    let is_call = |name: &str| line.contains(&format!(" {name}("));
    let is_far = if line.contains("sa_family=AF_INET6") {
        !line.contains("\"::1\"")
    } else if line.contains("sa_family=AF_INET") {
        !line.contains("inet_addr(\"127.")
    } else {
        // Name services and buses; nothing of ours listens on a path.
        line.contains("sun_path=")
    };
    let sends = ["connect", "sendto", "sendmsg", "sendmmsg"].map(is_call);
    let looks_up = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"]
        .map(|file| is_call("openat") && line.contains(file));
    (sends.contains(&true) && is_far) || looks_up.contains(&true)
}

#[test]
fn a_line_of_a_trace_is_judged_by_whom_it_reaches() {
    for far in [
        r#"1 connect(23, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.9.8.7")}, 16) = 0"#,
        r#"1 connect(23, {sa_family=AF_INET6, sin6_port=htons(443), inet_pton(AF_INET6, "2001:db8::1", &sin6_addr)}, 28) = 0"#,
        r#"1 connect(23, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT"#,
        r#"1 openat(AT_FDCWD, "/etc/resolv.conf", O_RDONLY|O_CLOEXEC) = 23"#,
    ] {
        assert!(reaches_out(far), "{far}");
    }
    for near in [
        r#"1 connect(9, {sa_family=AF_INET, sin_port=htons(7), sin_addr=inet_addr("127.0.0.1")}, 16) = 0"#,
        r#"1 bind(9, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("0.0.0.0")}, 16) = 0"#,
        r#"1 sendto(12, "PRI"..., 24, MSG_NOSIGNAL, NULL, 0) = 24"#,
        r#"1 openat(AT_FDCWD, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3"#,
    ] {
        assert!(!reaches_out(near), "{near}");
    }
}

#[test]
fn a_node_with_models_looks_up_nobody_connects_to_nobody_and_leaves_no_trace_at_home() {
    if !Command::new("strace")
        .arg("-V")
        .output()
        .is_ok_and(|it| it.status.success())
    {
        return skipped("strace is absent");
    }
    if offline() {
        return skipped("COLONY_OFFLINE is set, and this needs models");
    }
    run_within(FETCH_WITHIN, command(&["model", "pull"]).unwrap())
        .unwrap()
        .good()
        .unwrap();
    // Where `model pull` has put them; the node itself gets an empty HOME.
    let models = env::var_os("COLONY_HOME").map_or_else(
        || {
            let cache = env::var_os("XDG_CACHE_HOME").filter(|it| !it.is_empty());
            cache.map_or_else(
                || Path::new(&env::var_os("HOME").unwrap()).join(".cache/colony"),
                |cache| Path::new(&cache).join("colony"),
            )
        },
        Into::into,
    );
    let (folder, home) = (Folder::new().unwrap(), Folder::new().unwrap());
    let trace = folder.path().join("trace");
    let node = Node::start_as(&folder, "127.0.0.1:0", &["--engine", "ort"], |node| {
        let mut traced = Command::new("strace");
        traced
            // The tracer is the node's child, not its parent: signals reach the node.
            .args(["-D", "-f", "-q", "-e", "trace=network,openat", "-o"])
            .arg(&trace)
            .arg(node.get_program())
            .args(node.get_args())
            // What would silence the library too, such as CI, is not there.
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("COLONY_HOME", &models);
        traced
    })
    .unwrap();
    for model in ["minilm", "smollm2"] {
        node.json(&["model", "test", model, "is anybody there?"])
            .unwrap();
    }
    let id = node.id().to_string();
    assert!(node.stop().unwrap().success());
    // The library reports at its end too, and the tracer outlives the node by the last lines.
    let is_last = |line: &str| line.starts_with(&id) && line.ends_with("+++ exited with 0 +++");
    eventually("the end of the trace", TRACED_WITHIN, || {
        Ok(fs::read_to_string(&trace)?.lines().any(is_last))
    })
    .unwrap();
    let trace = fs::read_to_string(&trace).unwrap();
    assert!(
        trace.contains("libonnxruntime"),
        "the library was not even loaded"
    );
    let out: Vec<&str> = trace.lines().filter(|line| reaches_out(line)).collect();
    assert!(out.is_empty(), "{}", out.join("\n"));
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "left in HOME: {left:?}");
}
