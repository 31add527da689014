//! Families 55 to 59: chat templates that attack, and conversations that make no sense. What users write between the
//! lines (53, 54) is `texts::HOSTILE`.

use engine::Kind::{self, Malformed, TooLarge, Usage};
use engine::text::Message;

/// A template, and the kind with which it is refused: when the file is opened, or when it meets a conversation.
pub struct Hostile {
    /// What it tries.
    pub what: &'static str,
    /// Its source.
    pub source: String,
    /// How it is refused.
    pub kind: Kind,
}

type Row = (&'static str, Kind, fn() -> String);

const ROWS: &[Row] = &[
    ("55: the classes of the host", Malformed, || "{{ messages[0].content.__class__.__mro__ }}".into()),
    ("55: the globals of the host", Malformed, || "{{ cycler.__init__.__globals__ }}".into()),
    ("55: a file", Malformed, || "{% include '/etc/passwd' %}".into()),
    ("55: another template", Malformed, || "{% extends 'base' %}".into()),
    ("55: an import", Malformed, || "{% import 'os' as os %}{{ os.system('true') }}".into()),
    ("56: a loop of 10^9", Malformed, || "{% for i in range(10**9) %}x{% endfor %}".into()),
    ("56: a loop of 999,999,999", Malformed, || "{% for i in range(999999999) %}x{% endfor %}".into()),
    ("56: loops in loops", TooLarge, || {
        "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}".into()
    }),
    ("56: a gigabyte of output", TooLarge, || "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}".into()),
    ("56: a string of a gigabyte", TooLarge, || "{{ ('x' * 99999).replace('x', 'y' * 9999) }}".into()),
    ("56: a width of a gigabyte", TooLarge, || "{{ '{:>999999999}'.format(1) }}".into()),
    ("56: lists of lists of lists", TooLarge, || {
        format!("{{% set x = [1] %}}{}{{{{ x }}}}", "{% set x = [x, x] %}".repeat(40))
    }),
    ("56: a string that doubles", TooLarge, || {
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}".into()
    }),
    ("57: 50,000 ifs in each other", TooLarge, || "{% if a %}".repeat(50_000)),
    ("57: 50,000 brackets in each other", TooLarge, || format!("{{{{ {} }}}}", "(".repeat(50_000))),
    ("57: 50,000 nots", TooLarge, || format!("{{{{ {} a }}}}", "not ".repeat(50_000))),
    ("57: a sum of 50,000", TooLarge, || format!("{{{{ a{} }}}}", "+a".repeat(50_000))),
    ("57: 50,000 filters", TooLarge, || format!("{{{{ a{} }}}}", "|trim".repeat(50_000))),
    ("57: a macro that calls itself", Malformed, || "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into()),
    ("57: a loop that calls itself", Malformed, || "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".into()),
    ("57: a namespace in itself", Malformed, || "{% set n = namespace() %}{% set n.n = n %}{{ n }}".into()),
    ("57: two megabytes", TooLarge, || "x".repeat(2 << 20)),
    ("58: it raises", Usage, || "{{ raise_exception('no\u{1b}[31m\nnever') }}".into()),
    ("58: a key that is not there", Malformed, || "{{ messages.nobody.content }}".into()),
    ("58: a message that is not there", Malformed, || "{{ messages[7].content }}".into()),
    ("58: a function that is not there", Malformed, || "{{ open('x').read() }}".into()),
    ("58: a filter that is not there", Malformed, || "{{ messages|exec }}".into()),
    ("58: it does not end", Malformed, || "{{ messages".into()),
    ("58: an end without a begin", Malformed, || "{% endif %}".into()),
];

/// Every one.
pub fn hostile() -> impl Iterator<Item = Hostile> {
    ROWS.iter().map(|(what, kind, source)| Hostile { what, source: source(), kind: *kind })
}

/// Templates that look odd and are harmless, and what they make of `hello`.
pub const HARMLESS: &[(&str, &str, &str)] = &[
    ("58: it asks for the time", "{{ strftime_now('%Y') | length }}", "4"),
    ("58: it asks for tools", "{% if tools %}some{% else %}none{% endif %}", "none"),
    ("58: a name that is not there", "[{{ nobody }}]", "[]"),
    ("56: it repeats a little", "{{ '-' * 3 }}{{ messages[0].content }}", "---hello"),
    ("58: text and nothing else", "no code", "no code"),
    ("58: nothing", "", ""),
];

/// Family 59: conversations, and the kind with which they are refused.
pub fn senseless() -> Vec<(&'static str, Vec<Message>, Kind)> {
    let turn = |role: &str, content: &str| Message::new(role, content);
    vec![
        ("59: nobody speaks", vec![], Usage),
        ("59: a role without a name", vec![turn("", "hello")], Usage),
        ("59: an unknown role", vec![turn("root<|im_end|>\u{1b}[31m", "hello")], Usage),
        ("59: a role in capitals", vec![turn("User", "hello")], Usage),
        ("59: 65 megabytes", vec![turn("user", &"x".repeat(65 << 20))], TooLarge),
    ]
}
