use super::*;
use serde_json::json;

/// Templates of a model that has these files.
fn read(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>, EngineError> {
    let mut artefacts = Artefacts::default();
    for (path, text) in files {
        let bytes = text.as_bytes().to_vec();
        artefacts.contents.insert((*path).to_owned(), bytes);
    }
    ChatTemplate::read(&artefacts, None)
}

fn render(template: &str) -> Result<String, EngineError> {
    let chat = [Message::new("user", "Hi")];
    let template = read(&[("chat_template.jinja", template)])?.unwrap();
    template.render(&chat, &ChatOptions::default())
}

#[test]
fn the_file_of_its_own_speaks_before_the_config() {
    let config = r#"{"chat_template": "config", "bos_token": "<s>"}"#;
    let both = [
        ("chat_template.jinja", "{{ bos_token }}own"),
        (settings::CONFIG, config),
    ];
    let found = read(&both).unwrap().unwrap();
    let prompt = found.render(&[], &ChatOptions::default()).unwrap();
    assert_eq!(
        (found.file(), prompt.as_str()),
        ("chat_template.jinja", "<s>own")
    );
    assert_eq!(read(&both[1..]).unwrap().unwrap().file(), settings::CONFIG);
    let other = ("chat_template.json", r#"{"chat_template": "x"}"#);
    assert_eq!(read(&[other]).unwrap().unwrap().file(), other.0);
    assert!(read(&[]).unwrap().is_none());
}

#[test]
fn of_named_templates_the_one_for_tools_serves_tools() {
    let list = json!({"chat_template": [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]});
    let found = read(&[(settings::CONFIG, &list.to_string())])
        .unwrap()
        .unwrap();
    let mut options = ChatOptions::default();
    assert_eq!(found.render(&[], &options).unwrap(), "plain");
    options.tools = Some(json!([{"name": "a"}]));
    assert_eq!(found.render(&[], &options).unwrap(), "1 tools");
}

#[test]
fn errors_name_the_file_and_the_line() {
    for (template, told) in [
        (
            "a\n{{ raise_exception('no ' ~ messages[0].role) }}",
            "line 2",
        ),
        (
            "a\n{{ raise_exception('no ' ~ messages[0].role) }}",
            "no user",
        ),
        ("a\nb\n{% if %}", "line 3"),
        ("{{ messages.x.y }}", "line 1"),
        ("{% include 'x' %}", "line 1"),
        ("{{ strftime_now('%Q') }}", "directive"),
    ] {
        let message = render(template).unwrap_err().to_string();
        assert!(message.starts_with("chat_template.jinja: "), "{message}");
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn a_template_that_never_ends_or_fills_memory_runs_out_of_budget() {
    for template in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 100000000000 }}",
        "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}",
        "{{ [1] | tojson(indent=99999999999) }}",
        "{{ 'x' | replace('', 'y' * 1000000) | replace('', 'z' * 1000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{{ range(100000000000) | list }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{% set s = 'x' * 1000000 %}{{ ('{0}' * 100000).format(s) }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ''.join([ns.l]) }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ [ns.l].count(ns.l) }}",
        "{{ (['x'] * 100000) | join('y' * 1000000) }}",
        "{{ ('y' * 1000000).join(['x'] * 100000) }}",
        "{{ 'a\nb' | indent(100000000000) }}",
    ] {
        let error = render(template).unwrap_err();
        assert!(
            error.to_string().starts_with("chat_template.jinja: "),
            "{error}"
        );
    }
    let deep = format!(
        "{}1{}",
        "{{ ".to_owned() + &"(".repeat(100_000),
        ")".repeat(100_000) + " }}"
    );
    assert!(render(&deep).is_err());
    assert!(render(&"x".repeat(MAX_TEMPLATE_BYTES + 1)).is_err());
}

#[test]
fn generation_tags_print_nothing_and_keep_lines_and_spaces() {
    let template = "a\n{%- generation -%}\n b\n{% endgeneration %}\n{{ raise }}c{% x";
    let made = without_generation_tags(template);
    assert_eq!(
        made,
        "a\n{%- if true -%}\n b\n{% endif %}\n{{ raise }}c{% x"
    );
    assert_eq!(
        render("[{% generation %}{{ messages[0].content }}{% endgeneration %}]").unwrap(),
        "[Hi]"
    );
}

#[test]
fn tags_that_overlap_or_never_end_are_left_as_they_are_in_linear_time() {
    for template in [
        "{%}",
        "a{%}\n{% e %}",
        "{%",
        "{%-",
        "{% generation",
        "{%generation-",
    ] {
        assert_eq!(without_generation_tags(template), template);
    }
    let start = std::time::Instant::now();
    let many = format!("{}%}}", "{%".repeat(500_000));
    assert_eq!(without_generation_tags(&many), many);
    assert!(start.elapsed().as_secs() < 300, "{:?}", start.elapsed());
}

#[test]
fn loops_can_be_left_and_methods_of_python_are_there() {
    let template =
        "{% for c in 'abc' %}{% if c == 'b' %}{% continue %}{% endif %}{{ c.upper() }}{% endfor %}";
    assert_eq!(render(template).unwrap(), "AC");
    assert_eq!(
        render("{{ 'a b'.split(' ')[-1].strip() }}{{ {'a': 1}.get('b', 2) }}").unwrap(),
        "b2"
    );
    assert_eq!(
        render("{{ [1.0, none, true, 'ä\"'] | tojson }}").unwrap(),
        "[1.0, null, true, \"ä\\\"\"]"
    );
}

#[test]
fn content_is_text_or_parts() {
    let message = Message {
        role: "user".to_owned(),
        content: Content::Parts(vec![
            Part::Image,
            Part::Text {
                text: "What?".to_owned(),
            },
        ]),
        more: Map::new(),
    };
    let template = "{% for m in messages %}{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}";
    let found = read(&[("chat_template.jinja", template)]).unwrap().unwrap();
    let prompt = found.render(&[message], &ChatOptions::default()).unwrap();
    assert_eq!(prompt, "<image>What?");
}

#[test]
fn prompts_are_those_of_transformers() {
    let data = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/text");
    let cases = std::fs::read(data.join("chats.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&cases).unwrap();
    let mut failures = Vec::new();
    for case in &cases {
        let name = case["template"].as_str().unwrap();
        let text = std::fs::read_to_string(data.join(format!("chat/{name}.jinja"))).unwrap();
        let config = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
        let files = [
            ("chat_template.jinja", text.as_str()),
            (settings::CONFIG, config),
        ];
        let template = read(&files).unwrap().unwrap();
        let given = &case["options"];
        let options = ChatOptions {
            add_generation_prompt: given["add_generation_prompt"] == true,
            tools: given.get("tools").cloned(),
            variables: given["variables"].as_object().cloned().unwrap_or_default(),
            unix_seconds: Some(1_735_689_599),
            ..ChatOptions::default()
        };
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let what = format!("{name}, {}, {given}", case["chat"]);
        match (
            template.render(&messages, &options),
            case["prompt"].as_str(),
        ) {
            (Ok(prompt), Some(expected)) if prompt == expected => {}
            (Ok(prompt), Some(expected)) => {
                failures.push(format!(
                    "{what}:\nexpected {expected:?}\nfound    {prompt:?}"
                ));
            }
            // Other words for what the interpreter itself refuses, but a refusal all the same.
            (Err(_), None) => {}
            (found, expected) => failures.push(format!("{what}: {expected:?} {found:?}")),
        }
    }
    assert!(
        cases.len() == 75 && failures.is_empty(),
        "{}",
        failures.join("\n")
    );
}
