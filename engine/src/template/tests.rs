//! Tests of rendering, conditions and references.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn scope() -> Scope {
    Scope {
        params: json!({"horizon": 28, "name": "demand", "nested": {"list": [1, 2.5, "x"]}, "flag": false}),
        tenant: json!({"id": "acme", "source": "data/{{secret}}.csv"}),
        run: json!({"id": "r1", "seed": 7}),
        matrix: json!({"model": "gbdt"}),
        tasks: json!({"evaluate": {"outputs": {"best_wape": 0.25}}}),
    }
}

#[test]
fn one_expression_keeps_its_type() {
    let cases = [
        ("{{params.horizon}}", json!(28)),
        ("{{ params.horizon }}", json!(28)),
        ("{{{params.horizon}}}", json!(28)),
        ("{{params.flag}}", json!(false)),
        ("{{params.nested}}", json!({"list": [1, 2.5, "x"]})),
        ("{{params.nested.list.[1]}}", json!(2.5)),
        ("{{params.nested.list.2}}", json!("x")),
        ("{{gt tasks.evaluate.outputs.best_wape 0.2}}", json!(true)),
        ("{{and (eq matrix.model \"gbdt\") (not params.flag)}}", json!(true)),
    ];
    for (template, expected) in cases {
        assert_eq!(render(&json!(template), &scope()), Ok(expected), "{template}");
    }
}

#[test]
fn anything_else_becomes_text() {
    let cases = [
        ("h={{params.horizon}}", "h=28"),
        ("{{params.name}}-{{matrix.model}}", "demand-gbdt"),
        (" {{params.horizon}}", " 28"),
        ("{{params.nested.list}} <&>", "[1,2.5,\"x\"] <&>"),
        ("\\{{params.horizon}}", "{{params.horizon}}"),
        ("plain }} text", "plain }} text"),
    ];
    for (template, expected) in cases {
        assert_eq!(render(&json!(template), &scope()), Ok(json!(expected)), "{template}");
    }
}

#[test]
fn nothing_is_rendered_twice() {
    assert_eq!(render(&json!("{{tenant.source}}"), &scope()), Ok(json!("data/{{secret}}.csv")));
    assert_eq!(render(&json!("at {{tenant.source}}"), &scope()), Ok(json!("at data/{{secret}}.csv")));
}

#[test]
fn structures_are_walked_and_other_values_kept() {
    let with = json!({"a": ["{{params.horizon}}", 1, null, true], "b": {"c": "{{matrix.model}}"}});
    assert_eq!(render(&with, &scope()), Ok(json!({"a": [28, 1, null, true], "b": {"c": "gbdt"}})));
}

#[test]
fn missing_names_say_what_there_is() {
    let error = render(&json!("{{params.horizn}}"), &scope()).expect_err("missing");
    assert_eq!(error.to_string(), "{{params.horizn}}: there is no \"horizn\"; params has horizon, name, nested, flag");
    let error = render(&json!("{{env.HOME}}"), &scope()).expect_err("no such root");
    assert!(error.to_string().contains("starts with params, tenant, run, matrix, tasks"), "{error}");
    let error = render(&json!("x {{params.name.deeper}}"), &scope()).expect_err("through a text");
    assert!(error.to_string().contains("name is the text \"demand\""), "{error}");
    let error = render(&json!("{{matrix.model}}"), &Scope::default()).expect_err("no matrix");
    assert!(error.to_string().contains("matrix is not set here"), "{error}");
}

#[test]
fn only_expressions_are_handlebars_here() {
    let refused = [
        "{{#each params}}x{{/each}}",
        "{{#if params.flag}}x{{else}}y{{/if}}",
        "{{~#if params.flag}}x{{/if}}",
        "{{ # if params.flag}}x{{/if}}",
        "{{> partial}}",
        "{{* inline}}",
        "{{^params}}x{{/params}}",
        "{{{{raw}}}}x{{{{/raw}}}}",
        "{{@root.params}}",
        "{{../params}}",
        "{{this}}",
        "{{lookup params \"name\"}}",
        "{{log params.name}}",
        "{{gt params.horizon b=1}}",
        "{{params.horizon",
        "{{}}",
        "{{a b}}",
    ];
    for template in refused {
        assert!(render(&json!(template), &scope()).is_err(), "{template}");
        assert!(references(&json!(template)).iter().any(|found| found.item.is_err()), "{template}");
    }
    let deep = format!("{{{{{}params.flag{}}}}}", "(not ".repeat(5_000), ")".repeat(5_000));
    assert!(matches!(render(&json!(deep), &scope()), Err(TemplateError::Unsupported { .. })));
    let blocks = "{{#a}}".repeat(10_000);
    assert!(matches!(render(&json!(blocks), &scope()), Err(TemplateError::Unsupported { .. })));
}

#[test]
fn results_are_limited() {
    let scope = Scope { params: json!({"big": "x".repeat(400_000)}), ..Scope::default() };
    assert!(render(&json!(["{{params.big}}", "{{params.big}}"]), &scope).is_ok());
    let error = TemplateError::TooLarge { limit: OUTPUT_LIMIT };
    assert_eq!(render(&json!(["{{params.big}}", "{{params.big}}", "{{params.big}}"]), &scope), Err(error.clone()));
    assert_eq!(render(&json!("a {{params.big}}{{params.big}}{{params.big}}"), &scope), Err(error));
}

#[test]
fn conditions_are_true_or_false_or_errors() {
    let cases = [
        (json!(true), true),
        (json!(false), false),
        (json!("true"), true),
        (json!("{{params.flag}}"), false),
        (json!("{{params.horizon}}"), true),
        (json!("{{gt tasks.evaluate.outputs.best_wape 0.2}}"), true),
        (json!("{{gte 1 1.0}}"), true),
        (json!("{{lt 9007199254740993 9007199254740992}}"), false),
        (json!("{{ne \"a\" \"b\"}}"), true),
        (json!("{{or params.flag (lte 1 2)}}"), true),
    ];
    for (value, expected) in cases {
        assert_eq!(condition(&value, &scope()), Ok(expected), "{value}");
    }
    for bad in [
        json!("{{params.name}}"),
        json!("yes"),
        json!(null),
        json!("{{gt params.name 1}}"),
        json!([true]),
        json!("{{matrix.none}}true"),
    ] {
        assert!(condition(&bad, &scope()).is_err(), "{bad}");
    }
}

#[test]
fn references_know_their_place() {
    let with = json!({"a": ["x", "{{gt tasks.t-1.outputs.n params.horizon}}"], "b": "{{run.id}} {{! note }}"});
    let found = references(&with);
    let seen: Vec<_> = found
        .iter()
        .map(|found| (found.pointer.join("."), found.item.as_ref().map(|item| item.path.join("/")).expect("good")))
        .collect();
    assert_eq!(
        seen,
        [
            ("a.1".into(), "tasks/t-1/outputs/n".into()),
            ("a.1".into(), "params/horizon".into()),
            ("b".into(), "run/id".into())
        ]
    );
    assert!(matches!(
        references(&json!({"{{a}}": 1})).as_slice(),
        [Found { item: Err(TemplateError::InKey { .. }), .. }]
    ));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(\\{\\{|\\}\\}|[a-z.\\[\\]()\"' =@#/>~&{}\\\\!-]|\\PC){0,40}") {
        let _ = render(&json!(text), &scope());
        let _ = references(&json!(text));
    }

    #[test]
    fn text_without_braces_is_kept(text in "[^{]{0,60}") {
        prop_assert_eq!(render(&json!(text), &scope()), Ok(json!(text)));
    }

    #[test]
    fn values_are_data(value in "\\PC{0,60}") {
        let scope = Scope { params: json!({"v": value}), ..Scope::default() };
        prop_assert_eq!(render(&json!("{{params.v}}"), &scope), Ok(json!(value)));
        prop_assert_eq!(render(&json!("<{{params.v}}>"), &scope), Ok(json!(format!("<{value}>"))));
    }
}
