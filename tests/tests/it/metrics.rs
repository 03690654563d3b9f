//! The HTTP listener: health as orchestrators ask for it, and metrics that the documents and the alert rules know.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use colony_tests::{Checkout, Folder, Node, eventually, run_within, skipped};

/// For an answer of a node on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

/// A node with an HTTP listener, and where that is.
fn node(folder: &Folder) -> Result<(Node, String)> {
    let node = Node::start(folder, &["--http-listen", "127.0.0.1:0"])?;
    let log = node.log();
    let (_, address) = log
        .split_once("health and metrics over HTTP address=")
        .context("the log names the address")?;
    let address = address.split_whitespace().next().context("an address")?;
    Ok((node, address.to_owned()))
}

/// The status line and the body.
fn get(address: &str, path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head")?;
    let status = head.lines().next().context("a status line")?;
    Ok((status.to_owned(), body.to_owned()))
}

/// Of a scrape: each metric with its type, labels in order and help.
fn described(scrape: &str) -> BTreeMap<String, (String, String, String)> {
    let mut found: BTreeMap<String, (String, String, String)> = BTreeMap::new();
    for line in scrape.lines() {
        let about = |prefix: &str| line.strip_prefix(prefix)?.split_once(' ');
        if let Some((name, help)) = about("# HELP ") {
            let help = help.trim_end_matches('.').to_owned();
            found.entry(name.to_owned()).or_default().2 = help;
        } else if let Some((name, kind)) = about("# TYPE ") {
            kind.clone_into(&mut found.entry(name.to_owned()).or_default().0);
        } else if let Some((name, labels)) = line.split_once('{')
            && let Some((labels, _)) = labels.split_once('}')
        {
            let keys = labels.split(',').filter_map(|label| label.split_once('='));
            let keys: Vec<String> = keys.map(|(key, _)| format!("`{key}`")).collect();
            let name = name.trim_end_matches("_total").to_owned();
            found.entry(name).or_default().1 = keys.join(" ");
        }
    }
    found
}

#[test]
fn the_page_of_metrics_and_the_alerts_know_what_a_scrape_has() {
    let folder = Folder::new().unwrap();
    let (node, address) = node(&folder).unwrap();
    node.run(&["submit", "my badge is lost"]).unwrap();
    eventually("a question that waits", SOON, || {
        let (_, scrape) = get(&address, "/metrics")?;
        Ok(scrape.contains("colony_tasks{state=\"waiting\"} 1"))
    })
    .unwrap();
    let (status, scrape) = get(&address, "/metrics").unwrap();
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(scrape.ends_with("# EOF\n"), "{scrape}");
    assert!(scrape.contains("colony_tasks_accepted_total 1\n"));
    let age = scrape.lines().find_map(|line| {
        let age = line.strip_prefix("colony_approval_oldest_age_seconds ")?;
        age.parse::<f64>().ok()
    });
    assert!(age.is_some_and(|age| age > 0.0), "{age:?}");

    let checkout = Checkout::here().unwrap();
    let page = checkout.text("docs/reference/metrics.md").unwrap();
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" |").map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else {
            return None;
        };
        let name = name.strip_prefix("`colony_")?.strip_suffix('`')?;
        let described = (kind.to_owned(), labels.to_owned(), help.to_owned());
        Some((format!("colony_{name}"), described))
    });
    let scraped = described(&scrape);
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), scraped);

    let alerts = checkout.text("deploy/alerts.yml").unwrap();
    for expression in alerts.lines().filter(|line| line.contains("expr:")) {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|word| word.starts_with("colony_")) {
            let name = metric.trim_end_matches("_total");
            let kind = scraped.get(name).map(|(kind, ..)| kind.as_str());
            let wanted = if metric == name { "gauge" } else { "counter" };
            assert_eq!(kind, Some(wanted), "{metric} in {expression}");
        }
    }
    let mut promtool = Command::new("promtool");
    promtool
        .args(["check", "rules", "deploy/alerts.yml"])
        .current_dir(checkout.root());
    match run_within(SOON, promtool) {
        Ok(checked) => assert_eq!(checked.code, Some(0), "{}", checked.stderr),
        Err(_) => skipped(
            "promtool is not on this machine: the syntax of deploy/alerts.yml is not checked",
        ),
    }
}

#[test]
fn health_is_asked_for_until_the_end() {
    let folder = Folder::new().unwrap();
    let (node, address) = node(&folder).unwrap();
    for path in ["/healthz", "/readyz"] {
        let (status, body) = get(&address, path).unwrap();
        assert_eq!(
            (status.as_str(), body.as_str()),
            ("HTTP/1.1 200 OK", "ok\n")
        );
    }
    let (status, _) = get(&address, "/").unwrap();
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    // Whoever connects and says nothing, or half a request, keeps nobody out and no node from stopping.
    let silent: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(b"GET /rea").unwrap();
            stream
        })
        .collect();
    assert_eq!(get(&address, "/readyz").unwrap().1, "ok\n");
    let ended = node.stop().unwrap();
    assert!(ended.success(), "{ended}");
    drop(silent);
    assert!(get(&address, "/healthz").is_err());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = Node::start(&folder, &["--http-listen", &address]).err();
    let refused = format!("{:#}", refused.unwrap());
    assert!(refused.contains("--http-listen takes another"), "{refused}");
}
