//! A template's source, checked and made safe before the engine parses it.
//!
//! A template comes with a model file: it is a program by a stranger. `minijinja` bounds its steps and bytes by fuel,
//! but not recursion: 6,000 `+` overflow the stack while parsing, and `{% set ns.x = ns %}{{ ns }}` while printing. So
//! tags are counted here, and wherever a value gets a name or comes out of a filter, it is weighed (see `bound.rs`).
//! Where the engine and Python differ in a way that no filter can mend, the tag is rewritten here too.

use super::{bound, python};
use crate::limits;

/// Why a source is refused: words, and whether it is merely too large.
pub(super) struct Refused {
    pub what: String,
    pub too_large: bool,
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { what: what.into(), too_large: false })
}

fn too_large<T>(what: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { what: what.into(), too_large: true })
}

/// The source to parse in place of this one. It renders the same text.
pub(super) fn prepared(source: &str) -> Result<String, Refused> {
    if source.len() > limits::TEMPLATE_BYTES_MAX {
        return too_large(format!(
            "it has {} bytes; at most {} are supported",
            source.len(),
            limits::TEMPLATE_BYTES_MAX
        ));
    }
    let mut edits = Edits::default();
    let mut nesting = Nesting::default();
    let mut at = 0;
    while let Some(tag) = next_tag(source, at)? {
        at = tag.end;
        operators(&tag, &mut edits);
        filters(&tag, &mut edits);
        bound_methods(&tag, &mut edits);
        if tag.is_block {
            nesting.enter(&tag)?;
            block(&tag, &mut edits)?;
        }
    }
    Ok(edits.applied(source))
}

/// `{{ … }}` or `{% … %}`.
struct Tag<'s> {
    is_block: bool,
    tokens: Vec<Token<'s>>,
    /// Where the closing mark begins, and what it is: `-%}`.
    close_at: usize,
    close: &'s str,
    /// Behind the closing mark.
    end: usize,
}

#[derive(Clone, Copy)]
struct Token<'s> {
    text: &'s str,
    at: usize,
}

impl<'s> Tag<'s> {
    /// The word that says what kind of block it is.
    fn word(&self) -> &'s str {
        self.tokens.first().map_or("", |t| t.text)
    }

    /// Whether this token is left of a `=` that assigns.
    fn is_target(&self, n: usize) -> bool {
        self.is_block && self.word() == "set" && assignment(self).is_none_or(|sign| n < sign)
    }

    /// The names in these tokens: they are what a template calls values.
    fn names(tokens: &[Token<'s>]) -> Vec<&'s str> {
        let is_name = |t: &&Token| t.text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        tokens.iter().filter(is_name).map(|t| t.text).collect()
    }
}

/// The next tag, its tokens cut as `minijinja` cuts them: were the two to differ, a tag could be hidden from this
/// check.
fn next_tag(source: &str, mut at: usize) -> Result<Option<Tag<'_>>, Refused> {
    let bytes = source.as_bytes();
    loop {
        let Some(brace) = source[at..].find('{') else { return Ok(None) };
        at += brace;
        let start = at + 2 + usize::from(matches!(bytes.get(at + 2), Some(b'-' | b'+')));
        match bytes.get(at + 1) {
            Some(b'{') => return tag(source, start, false).map(Some),
            Some(b'%') => return tag(source, start, true).map(Some),
            Some(b'#') => match source[start..].find("#}") {
                Some(len) => at = start + len + 2,
                None => return malformed("a comment does not end"),
            },
            _ => at += 1,
        }
    }
}

fn tag(source: &str, start: usize, is_block: bool) -> Result<Tag<'_>, Refused> {
    let mark = if is_block { "%}" } else { "}}" };
    let mut tokens = Vec::new();
    let mut brackets = 0_usize;
    let mut at = start;
    loop {
        at += source[at..].bytes().take_while(u8::is_ascii_whitespace).count();
        let rest = &source[at..];
        let sign = usize::from(rest.starts_with(['-', '+']));
        if brackets == 0 && rest[sign..].starts_with(mark) {
            let end = at + sign + mark.len();
            return Ok(Tag { is_block, tokens, close_at: at, close: &source[at..end], end });
        }
        let text = &rest[..token_len(rest)?];
        match text {
            "(" | "[" | "{" => brackets += 1,
            ")" | "]" | "}" if brackets == 0 => return malformed(format!("a tag has a {text} too many")),
            ")" | "]" | "}" => brackets -= 1,
            _ => {}
        }
        tokens.push(Token { text, at });
        at += text.len();
        if brackets > limits::TEMPLATE_DEPTH_MAX {
            return too_large(format!("brackets are nested deeper than {}", limits::TEMPLATE_DEPTH_MAX));
        }
        if tokens.len() > limits::TEMPLATE_TAG_TOKENS_MAX {
            return too_large(format!("a tag has more than {} words and signs", limits::TEMPLATE_TAG_TOKENS_MAX));
        }
    }
}

/// The length of the word, number, text or sign that `rest` begins with.
fn token_len(rest: &str) -> Result<usize, Refused> {
    let word = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    match rest.chars().next() {
        None => malformed("a tag does not end"),
        Some(quote @ ('\'' | '"')) => {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == quote && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or_else(|| malformed("a text in quotes does not end"), |len| Ok(len + 2))
        }
        Some(_) if word > 0 => Ok(word),
        Some(_) if ["//", "**", "==", "!=", ">=", "<="].iter().any(|op| rest.starts_with(op)) => Ok(2),
        Some(c) => Ok(c.len_utf8()),
    }
}

/// How deep in blocks we are. An `elif` is a level of its own: the engine makes it an `if` inside the `else`.
#[derive(Default)]
struct Nesting {
    levels: Vec<usize>,
}

impl Nesting {
    fn enter(&mut self, tag: &Tag) -> Result<(), Refused> {
        match tag.word() {
            "raw" | "with" => return malformed(format!("{} blocks are not supported in a chat template", tag.word())),
            "if" | "for" | "macro" | "call" | "filter" | "autoescape" | "generation" => self.levels.push(1),
            "set" if assignment(tag).is_none() => self.levels.push(1),
            "elif" => match self.levels.last_mut() {
                Some(level) => *level += 1,
                None => return malformed("an elif is outside of any if"),
            },
            word if word.starts_with("end") => drop(self.levels.pop()),
            _ => {}
        }
        if self.levels.iter().sum::<usize>() > limits::TEMPLATE_DEPTH_MAX {
            return too_large(format!("blocks are nested deeper than {}", limits::TEMPLATE_DEPTH_MAX));
        }
        Ok(())
    }
}

/// Which token of a `set` is its `=`, if it is not a block whose body is the value.
fn assignment(tag: &Tag) -> Option<usize> {
    let after_target = tag.tokens.iter().position(|t| matches!(t.text, "=" | "|"))?;
    (tag.tokens[after_target].text == "=").then_some(after_target)
}

/// A list times a number is a list without end: `a * b` becomes `a|_factor * b|_factor`, which lets no list through.
/// `a ~ b` becomes `a|string ~ b|string`, because the engine joins floats as Rust prints them.
fn operators(tag: &Tag, edits: &mut Edits) {
    let tokens = &tag.tokens;
    let arithmetic = tokens.iter().any(|t| matches!(t.text, "*" | "/" | "//" | "%" | "**"));
    for n in (1..tokens.len()).filter(|n| matches!(tokens[*n].text, "*" | "~")) {
        let filter = match tokens[n].text {
            "*" => python::FACTOR,
            // `a * b ~ c`: neither `b` nor anything else here may become a text too early.
            _ if arithmetic => continue,
            _ => "string",
        };
        edits.filter(tokens[n - 1], filter);
        let last = operand(tokens, n + 1);
        if let Some(last) = tokens.get(last).filter(|_| tokens.get(last + 1).is_none_or(|t| t.text != tokens[n].text)) {
            edits.filter(*last, filter);
        }
    }
}

/// The last token of the operand that begins at `start`: signs, a value, and what is asked of it.
fn operand(tokens: &[Token], start: usize) -> usize {
    let bracket = |at: usize| tokens.get(at).is_some_and(|t| matches!(t.text, "(" | "[" | "{"));
    let over = |at: usize| if bracket(at) { closing(tokens, at).unwrap_or(at) } else { at };
    let text = |at: usize| tokens.get(at).map_or("", |t| t.text);
    let mut at = start;
    while matches!(text(at), "-" | "+") {
        at += 1;
    }
    at = over(at);
    loop {
        at = match text(at + 1) {
            "." | "|" => at + 2,
            "(" | "[" => over(at + 1),
            _ => return at,
        };
    }
}

/// `a|f(b)` becomes `a|f(b)|weighed`: a filter may repeat a value any number of times.
fn filters(tag: &Tag, edits: &mut Edits) {
    for n in (0..tag.tokens.len()).filter(|n| tag.tokens[*n].text == "|") {
        let Some(name) = tag.tokens.get(n + 1) else { return };
        let has_arguments = tag.tokens.get(n + 2).is_some_and(|t| t.text == "(");
        let last = if has_arguments { closing(&tag.tokens, n + 2).map(|n| &tag.tokens[n]) } else { Some(name) };
        if let Some(last) = last {
            edits.filter(*last, bound::NAMED);
        }
    }
}

/// `a.items` becomes `a|_bound("items")`, but for `a.items()` and where more is asked of it.
fn bound_methods(tag: &Tag, edits: &mut Edits) {
    for at in tag.tokens.windows(2).enumerate().filter(|(_, pair)| pair[0].text == ".").map(|(n, _)| n) {
        let (dot, name) = (tag.tokens[at], tag.tokens[at + 1]);
        let goes_on = tag.tokens.get(at + 2).is_some_and(|t| matches!(t.text, "(" | "[" | "."));
        if python::DICT_METHODS.contains(&name.text) && !goes_on && !tag.is_target(at) {
            edits.replace(dot, &format!("|{}('{}')", python::BOUND, name.text));
            edits.replace(name, "");
        }
    }
}

/// The bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let length = tokens[open..].iter().position(|t| {
        match t.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    Some(open + length?)
}

/// What must change in a block tag.
fn block(tag: &Tag, edits: &mut Edits) -> Result<(), Refused> {
    let tokens = &tag.tokens;
    let position = |text: &str| tokens.iter().position(|t| t.text == text);
    match tag.word() {
        "set" => return set(tag, edits),
        "for" => edits.weigh(tag, &Tag::names(&tokens[1..position("in").unwrap_or(1)])),
        "macro" => edits.weigh(tag, &parameters(&tokens[1..])),
        // `{% call(item) list(…) %}`: only the first brackets are parameters.
        "call" if tokens.get(1).is_some_and(|t| t.text == "(") => edits.weigh(tag, &parameters(&tokens[1..])),
        // HuggingFace's own tag, which marks what an assistant says; it prints its body.
        "generation" => edits.replace(tokens[0], "if true"),
        "endgeneration" => edits.replace(tokens[0], "endif"),
        _ => {}
    }
    Ok(())
}

/// `{% set a = b %}` becomes `{% set a =( b )|weighed %}`.
fn set(tag: &Tag, edits: &mut Edits) -> Result<(), Refused> {
    let into_namespace = |target: &[Token]| target.iter().any(|t| t.text == ".");
    match assignment(tag) {
        Some(sign) => {
            let filter = if into_namespace(&tag.tokens[..sign]) { bound::KEPT } else { bound::NAMED };
            edits.insert(tag.tokens[sign].at + 1, "(".into());
            edits.insert(tag.close_at, format!(")|{filter} "));
            Ok(())
        }
        None if into_namespace(&tag.tokens) => malformed("a set block cannot fill a namespace"),
        // A block that is filtered is weighed behind its filter.
        None if tag.tokens.iter().any(|t| t.text == "|") => Ok(()),
        None => {
            edits.insert(tag.close_at, format!("|{} ", bound::NAMED));
            Ok(())
        }
    }
}

/// The parameter names of `name(a, b=c)`.
fn parameters<'s>(tokens: &[Token<'s>]) -> Vec<&'s str> {
    let mut depth = 0_usize;
    let mut names = Vec::new();
    for pair in tokens.windows(2) {
        match pair[0].text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 1 && matches!(pair[0].text, "(" | ",") {
            names.extend(Tag::names(&pair[1..]));
        }
        if depth == 0 && pair[0].text == ")" {
            break;
        }
    }
    names
}

/// Changes to a source: at a place, skip so many bytes and put this text.
#[derive(Default)]
struct Edits {
    edits: Vec<(usize, usize, String)>,
}

impl Edits {
    fn insert(&mut self, at: usize, text: String) {
        self.edits.push((at, 0, text));
    }

    /// A filter behind a token.
    fn filter(&mut self, token: Token, name: &str) {
        self.insert(token.at + token.text.len(), format!("|{name}"));
    }

    fn replace(&mut self, token: Token, text: &str) {
        self.edits.push((token.at, token.text.len(), text.into()));
    }

    /// Behind a tag that names values: has them weighed first. The new tags close like the old one, so white space
    /// behind it is treated as before.
    fn weigh(&mut self, tag: &Tag, names: &[&str]) {
        let close = tag.close;
        let sets = names.iter().map(|name| format!("{{% set {name} = {name}|{} {close}", bound::NAMED));
        self.insert(tag.end, sets.collect());
    }

    fn applied(mut self, source: &str) -> String {
        self.edits.sort_by_key(|(at, ..)| *at);
        let mut out = String::with_capacity(source.len() * 2);
        let mut copied = 0;
        for (at, skipped, text) in self.edits {
            out.push_str(&source[copied..at]);
            out.push_str(&text);
            copied = at + skipped;
        }
        out.push_str(&source[copied..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: &str) -> String {
        prepared(source).err().map(|refused| refused.what).unwrap()
    }

    #[test]
    fn every_name_is_weighed() {
        let same = |source: &str, out: &str| assert_eq!(prepared(source).ok().as_deref(), Some(out));
        same("a {{ b }} {# {% set c = 1 %} #} {", "a {{ b }} {# {% set c = 1 %} #} {");
        same("{%- set a = '%}' -%}", "{%- set a =( '%}' )|_named -%}");
        same("{% set n.a, b = [1], {'}}': 2} %}", "{% set n.a, b =( [1], {'}}': 2} )|_kept %}");
        same("{% set a -%}x{% endset %}", "{% set a |_named -%}x{% endset %}");
        same("{% set a | default(v=1) %}x", "{% set a | default(v=1)|_named %}x");
        same("{{ a|f(b|g, '|') + 'c|d' }}", "{{ a|f(b|g|_named, '|')|_named + 'c|d' }}");
        same("{{ a * -b.c[d](e)|f }}", "{{ a|_factor * -b.c[d](e)|f|_factor|_named }}");
        same("{{ (a) ~ b[c ~ 1].d ~ 'e' }}", "{{ (a)|string ~ b[c|string ~ 1|string].d|string ~ 'e'|string }}");
        same("{{ a * b ~ c }}", "{{ a|_factor * b|_factor ~ c }}");
        same("{% for k, v in x -%}", "{% for k, v in x -%}{% set k = k|_named -%}{% set v = v|_named -%}");
        same("{% macro m(a, b=[c, d]) %}", "{% macro m(a, b=[c, d]) %}{% set a = a|_named %}{% set b = b|_named %}");
        same("{% call(a) m(b) %}", "{% call(a) m(b) %}{% set a = a|_named %}");
        same(
            "{{ a.items.b }}{{ a.items() }}{{ [a.items] }}",
            "{{ a.items.b }}{{ a.items() }}{{ [a|_bound('items')] }}",
        );
        same("{% set a.items = b.keys %}", "{% set a.items =( b|_bound('keys') )|_kept %}");
        same("{% call m(b) %}", "{% call m(b) %}");
        same("{%- generation -%}{% endgeneration %}", "{%- if true -%}{% endif %}");
    }

    #[test]
    fn depth_and_length_are_bounded_before_parsing() {
        assert!(refused(&"{% if a %}".repeat(50_000)).contains("nested deeper"));
        assert!(refused(&format!("{{% if a %}}{}", "{% elif a %}".repeat(50_000))).contains("nested deeper"));
        assert!(refused(&format!("{{{{ {}", "(".repeat(50_000))).contains("nested deeper"));
        assert!(refused(&format!("{{{{ a{} }}}}", "+a".repeat(50_000))).contains("words and signs"));
        assert!(refused(&"x".repeat(limits::TEMPLATE_BYTES_MAX + 1)).contains("bytes"));
        assert!(prepared(&"{% if a %}{% endif %}".repeat(10_000)).is_ok());
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for source in [
            "{{ a",
            "{% if",
            "{{ 'a }}",
            "{{ 'a\\' }}",
            "{# a",
            "{{ a) }}",
            "{% raw %}",
            "{% elif a %}",
            "{% set n.a | list %}",
        ] {
            assert!(prepared(source).is_err(), "{source}");
        }
    }
}
