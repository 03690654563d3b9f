#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use super::*;

fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("colony.toml");
    std::fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path),
        ..Sources::default()
    };
    (folder, sources)
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn problems(sources: &Sources) -> Vec<Problem> {
    match Config::load(sources) {
        Err(ConfigError::Problems { problems }) => problems,
        other => panic!("{other:?}"),
    }
}

fn repository_file() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../colony.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

#[test]
fn nothing_set_is_the_default_and_the_default_is_right() {
    let loaded = Config::load(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.show().iter().all(|s| s.origin == Origin::Default));
}

#[test]
fn the_file_in_the_repository_is_the_default() {
    let (path, _) = repository_file();
    let sources = Sources {
        file: Some(path),
        ..Sources::default()
    };
    let loaded = Config::load(&sources).unwrap_or_else(|error| panic!("{error}"));
    let written = show::leaves(&loaded.config);
    let defaults = show::leaves(&Config::default());
    for (written, default) in written.iter().zip(&defaults) {
        assert_eq!(written, default, "colony.toml says otherwise");
    }
    assert_eq!(loaded.config, Config::default());
}

#[test]
fn every_key_stands_in_the_file_in_the_repository() {
    let (_, text) = repository_file();
    let mut section = String::new();
    let mut written = std::collections::BTreeSet::new();
    for line in text.lines() {
        let line = line.trim_start_matches('#').trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.trim_matches(['[', ']']).to_owned();
            written.insert(section.clone());
        } else if let Some((key, _)) = line.split_once(" =") {
            written.insert(format!("{section}.{key}"));
        }
    }
    for (key, _) in show::leaves(&Config::default()) {
        assert!(written.contains(&key), "colony.toml says nothing of {key}");
    }
}

#[test]
fn every_setting_of_triage_stands_in_the_file_with_its_default() {
    let (_, text) = repository_file();
    let (_, section) = text.split_once("\n[agents.triage.settings]\n").unwrap();
    let (section, _) = section.split_once("\n[").unwrap();
    let written: Vec<&str> = section
        .lines()
        .map(|line| line.trim_start_matches('#').trim())
        .filter(|line| line.contains(" = "))
        .collect();
    let defaults = serde_json::to_value(colony_agents::TriageSettings::default()).unwrap();
    let defaults: Vec<String> = defaults
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    assert_eq!(written, defaults);
}

#[test]
fn bounds_of_similarity_out_of_range_are_listed() {
    let (_folder, sources) = file("[risk.similarity]\nwidth = 0.0\nmargin_min = nan\n");
    let found = problems(&sources);
    let keys: Vec<&str> = found.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        ["risk.similarity.width", "risk.similarity.margin_min"]
    );
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let (_folder, mut sources) =
        file("[market]\nsample = 2\nclaim_max = 3\n[roster]\nsleep_after = \"2s\"\n");
    sources.env = vec![
        pair("COLONY__MARKET__SAMPLE", "4"),
        pair("COLONY__MARKET__CLAIM_MAX", "5"),
        pair("COLONY_HOME", "/elsewhere"),
    ];
    sources.flags = vec![
        pair("market.sample", "6"),
        pair("node.listen", "127.0.0.1:0"),
    ];
    let loaded = Config::load(&sources).unwrap();
    assert_eq!(loaded.config.market.rules.sample, 6);
    assert_eq!(loaded.config.market.claim_max, 5);
    assert_eq!(loaded.config.roster.sleep_after.as_secs(), 2);
    assert_eq!(loaded.config.node.listen.port(), 0);
    let shown = loaded.show();
    let origin = |key: &str| {
        shown
            .iter()
            .find(|s| s.key == key)
            .unwrap()
            .origin
            .to_string()
    };
    assert_eq!(origin("market.sample"), "flag");
    assert_eq!(origin("market.claim_max"), "env COLONY__MARKET__CLAIM_MAX");
    assert!(
        origin("roster.sleep_after").ends_with("colony.toml:5"),
        "{}",
        origin("roster.sleep_after")
    );
    assert_eq!(origin("roster.step_timeout"), "default");
}

#[test]
fn unknown_keys_are_named_with_their_line_and_the_nearest_known_one() {
    let (_folder, mut sources) = file(
        "[node]\nlissten = \"127.0.0.1:1\"\n[agents.mine]\nkind = \"echo\"\ncuont = 3\n[rooster]\na = 1\n",
    );
    sources.env = vec![pair("COLONY__LEDGER__LIVE_MAXX", "4")];
    let found = problems(&sources);
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    for part in [
        "node.lissten: unknown key; did you mean \"node.listen\"? (file ",
        "colony.toml:2)",
        "agents.mine.cuont: unknown key; did you mean \"agents.mine.count\"?",
        "rooster: unknown key; did you mean \"roster\"?",
        "ledger.live_maxx: unknown key; did you mean \"ledger.live_max\"? (env COLONY__LEDGER__LIVE_MAXX)",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert_eq!(found.len(), 4, "{text}");
}

/// What stands there as an example is what people take the comment sign from.
#[test]
fn every_example_of_the_file_in_the_repository_can_be_set() {
    let (_, text) = repository_file();
    let mut examples = 0;
    let lines = text.lines().map(|line| {
        let setting = line.strip_prefix("# ").filter(|rest| {
            let key = rest.split_once(" = ").map(|(key, _)| key);
            key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        });
        examples += usize::from(setting.is_some());
        setting.unwrap_or(line)
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let (_folder, sources) = file(&text);
    let loaded = Config::load(&sources);
    let loaded = loaded
        .map_err(|error| error.to_string())
        .expect("no problem");
    assert_eq!(loaded.config.ledger.tenant_weights.len(), 1);
    assert!(examples > 10, "{examples} examples");
}

#[test]
fn all_wrong_values_are_listed() {
    let (_folder, sources) = file(
        "[market]\nsample = 0\n[market.weights]\nload = -1.0\n[memory]\nneighbours = 0\n\
         [agents.triage]\nembedder = \"minilmm\"\n[inference.embed]\nthreads = 65\n[ledger]\nbackoff_base = \"2m\"\n",
    );
    let found = problems(&sources);
    let keys: Vec<&str> = found.iter().map(|p| p.key.as_str()).collect();
    for key in [
        "market.sample",
        "market.weights.load",
        "memory.neighbours",
        "agents.triage.embedder",
        "inference.embed.threads",
        "ledger.backoff_max",
    ] {
        assert!(keys.contains(&key), "{key} is not in {keys:?}");
    }
    assert_eq!(keys.len(), 6, "{found:?}");
}

#[test]
fn a_value_of_the_wrong_type_names_its_key_and_line() {
    let (_folder, sources) = file("[roster]\nstep_timeout = 30\n[node]\nid = \"Not A Name\"\n");
    let found = problems(&sources);
    let keys: Vec<&str> = found.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["node.id", "roster.step_timeout"], "{found:?}");
    assert!(
        found[1].what.contains("a length of time such as"),
        "{}",
        found[1]
    );
    assert!(found[1].origin.to_string().ends_with(":2"), "{}", found[1]);
}

#[test]
fn wrong_types_and_broken_rules_are_listed_together() {
    let (_folder, sources) = file(
        "[roster]\nstep_timeout = 30\nsleep_after = 5\nrestarts_max = 0\n[market]\nsample = 0\n\
         [models.mine]\nkind = \"embedd\"\nsource = \"/m\"\n[agents.triage]\ncount = \"many\"\nversion = 0\nembedder = \"mine\"\n",
    );
    let keys: Vec<String> = problems(&sources).into_iter().map(|p| p.key).collect();
    let expected = [
        "models.mine.kind",
        "agents.triage.count",
        "roster.sleep_after",
        "roster.step_timeout",
        "market.sample",
        "roster.restarts_max",
        "agents.triage.version",
    ];
    for key in expected {
        assert!(keys.iter().any(|found| found == key), "{key}: {keys:?}");
    }
    // That triage's embedder is no embedding model follows from the first, and is not said.
    assert_eq!(keys.len(), expected.len(), "{keys:?}");
}

#[test]
fn others_add_what_only_they_can_check() {
    let (_folder, sources) = file("[market]\nsample = 0\n[agents.mine]\nkind = \"ehco\"\n");
    let more = |config: &Config| crate::check_agents(config, &colony_agents::Kinds::builtin());
    let Err(ConfigError::Problems { problems }) = Config::load_checked(&sources, more) else {
        panic!("two problems");
    };
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(text[0].starts_with("market.sample: "), "{text:?}");
    assert!(
        text[1].starts_with("agents.mine.kind: no agent kind \"ehco\"; there are: echo, triage"),
        "{text:?}"
    );
    assert!(text[1].ends_with("colony.toml:4)"), "{text:?}");
}

#[test]
fn a_pattern_that_replaces_the_ready_made_ones_is_a_warning() {
    let (_folder, sources) =
        file("[[risk.patterns]]\nname = \"fire\"\nwhy = \"burns\"\nall = [[\"fire\"]]\n");
    let warnings = Config::load(&sources).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let text = warnings[0].to_string();
    for part in [
        "warning: risk.patterns: 1 of your own replace all 42",
        "42 of these hold no more",
        "colony.toml:1)",
    ] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    let (_folder, none) = file("[risk]\npatterns = []\n");
    assert_eq!(Config::load(&none).unwrap().warnings, []);
    let (path, _) = repository_file();
    let whole = Sources {
        file: Some(path),
        ..Sources::default()
    };
    assert_eq!(Config::load(&whole).unwrap().warnings, []);
}

#[test]
fn a_bad_risk_pattern_is_named_with_its_phrase_and_line() {
    let (_folder, sources) = file(
        "[[risk.patterns]]\nname = \"fire\"\nwhy = \"burns\"\nall = [[\"fire\"]]\n\n\
         [[risk.patterns]]\nname = \"loss\"\nwhy = \"is gone\"\nall = [[\"de*lete\"], []]\nwithin = 0\n",
    );
    let mut found = problems(&sources);
    found.retain(|problem| problem.severity == Severity::Error);
    assert_eq!(found.len(), 1, "{found:?}");
    let text = found[0].to_string();
    for part in [
        "risk.patterns.1: pattern \"loss\": within = 0 is not between 1 and 100 words; ",
        "phrase \"de*lete\" has a `*` that is not at the end of a word; write it like `delet*`; ",
        "group 2 has no phrases; write one, or take the group out (file ",
        "colony.toml:6)",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_risk_pattern_of_the_wrong_shape_is_named() {
    for (pattern, parts) in [
        (
            "name = \"a\", why = \"b\", phrases = [\"c\"]",
            ["phrases", "`name`, `why`, `all`, `within`"],
        ),
        (
            "name = \"a\", why = \"b\"",
            ["risk.patterns", "missing field `all`"],
        ),
        (
            "name = \"a\", why = \"b\", all = [\"c\"]",
            ["risk.patterns.1.all", "expected a sequence"],
        ),
        (
            "name = \"a\", why = \"b\", all = [[\"c\"]], within = -1",
            ["risk.patterns.1.within", "-1"],
        ),
    ] {
        let good = "{ name = \"ok\", why = \"ok\", all = [[\"ok\"]] }";
        let (_folder, sources) = file(&format!(
            "[risk]\npatterns = [\n  {good},\n  {{ {pattern} }},\n]\n"
        ));
        let found = problems(&sources);
        assert_eq!(found.len(), 1, "{found:?}");
        let text = found[0].to_string();
        for part in parts.into_iter().chain(["colony.toml:"]) {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}

#[test]
fn a_list_of_risk_patterns_replaces_the_default_whole() {
    let (_folder, mut sources) = file("[risk]\npatterns = []\n");
    assert_eq!(Config::load(&sources).unwrap().config.risk.patterns, []);
    sources.env = vec![pair(
        "COLONY__RISK__PATTERNS",
        "[{name=\"a\", why=\"b\", all=[[\"give me\", \"it*\"], [\"x\"]]}]",
    )];
    let risk = Config::load(&sources).unwrap().config.risk;
    let found = risk.policy().unwrap().hits("x: give me")[0].to_string();
    assert_eq!(found, "b (\"x: give me\")");
}

#[test]
fn a_broken_file_says_where() {
    let (_folder, sources) = file("[node]\nid = \n");
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.contains("colony.toml:2 is not valid TOML"), "{error}");
    let missing = Sources {
        file: Some(PathBuf::from("/no/such/colony.toml")),
        ..Sources::default()
    };
    let error = Config::load(&missing).unwrap_err().to_string();
    assert!(error.contains("/no/such/colony.toml"), "{error}");
}

#[test]
fn a_new_agent_type_is_a_few_lines() {
    let (_folder, sources) = file(
        "[agents.greeter]\nkind = \"echo\"\nprompt = \"Be kind.\"\n[agents.greeter.settings]\nany = [1, 2]\n",
    );
    let config = Config::load(&sources).unwrap().config;
    assert_eq!(config.agents.len(), 3);
    assert_eq!(config.agents["greeter"].count, 10);
    assert_eq!(config.agents["greeter"].settings["any"][1], 2);
}
