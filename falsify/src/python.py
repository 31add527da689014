"""Judges answers that should be Python functions: a JSON list of cases on standard input, a JSON list of verdicts on
standard output. Run it with `python3 -I -S`.

A case is {answer, name, parameters, reference, arguments}; a verdict {parses, signature, agrees, compared, why}. What an
answer says is run only if its syntax tree holds nothing but what small functions need; then without imports, without
attributes that begin with an underscore, with few built-ins, for a second, in a process that may not write files.
"""
import ast, json, random, re, resource, signal, sys

ALLOWED = set("""Module FunctionDef arguments arg Return Assign AugAssign AnnAssign For While If Expr Pass Break Continue Raise
Try ExceptHandler Assert BoolOp And Or BinOp Add Sub Mult Div FloorDiv Mod Pow MatMult LShift RShift BitOr BitXor BitAnd UnaryOp
Invert Not UAdd USub Lambda IfExp Dict Set List Tuple ListComp SetComp DictComp GeneratorExp comprehension Compare Eq NotEq Lt
LtE Gt GtE Is IsNot In NotIn Call keyword FormattedValue JoinedStr Constant Attribute Subscript Slice Starred Name Load Store
Del Delete""".split())
BUILTINS = """abs all any bin bool chr dict divmod enumerate filter float frozenset hex int isinstance iter len list map max min
next oct ord pow print range repr reversed round set slice sorted str sum tuple zip ArithmeticError AssertionError Exception
IndexError KeyError LookupError OverflowError StopIteration TypeError ValueError ZeroDivisionError""".split()
GENERATED, LEAST = 12, 5


def limits():
    for what, most in ((resource.RLIMIT_CPU, 30), (resource.RLIMIT_AS, 1 << 29), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 3)):
        resource.setrlimit(what, (most, most))


def code_of(answer):
    block = re.search(r"```python\n(.*?)```", answer, re.S)
    return block and block[1]


def functions(tree):
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def harmless(tree):
    for node in ast.walk(tree):
        if type(node).__name__ not in ALLOWED:
            return f"it uses {type(node).__name__}"
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name.startswith("_") and name != "_" or name in ("format", "format_map"):
            return f"it uses {name}"
    return None


def signature(function, case):
    a = function.args
    if a.vararg or a.kwarg or a.kwonlyargs or a.defaults:
        return "other kinds of parameters"
    names = [x.arg for x in a.posonlyargs + a.args]
    if names != case["parameters"]:
        return f"parameters {names}"
    returns = [n for n in ast.walk(function) if isinstance(n, ast.Return)]
    if not returns or any(n.value is None for n in returns):
        return "no value is returned"
    return None


def another(value, draw):
    """A value of the same kind."""
    if isinstance(value, bool) or value is None:
        return draw.random() < 0.5 if value is not None else None
    if isinstance(value, int):
        return draw.randint(min(value, 0), 2 * abs(value) + 3)
    if isinstance(value, float):
        return round(draw.uniform(min(value, 0.0), 2 * abs(value) + 3), 2)
    if isinstance(value, str):
        letters = list(value * 2)
        draw.shuffle(letters)
        return "".join(letters[:draw.randint(0, len(letters))])
    if isinstance(value, dict):
        return {k: another(v, draw) for k, v in value.items() if draw.random() < 0.8}
    items = [another(draw.choice(list(value)), draw) for _ in range(draw.randint(0, len(value) + 2))] if value else []
    # A function of a sorted list is asked about sorted lists.
    if len(value) > 1 and not isinstance(value, set) and list(value) == sorted(value, key=repr) == sorted(value, key=str):
        items.sort(key=lambda x: (str(type(x)), x) if isinstance(x, (int, float, str)) else (str(type(x)), repr(x)))
    return type(value)(items)


def same(a, b):
    if isinstance(a, float) or isinstance(b, float):
        return isinstance(a, (int, float)) and isinstance(b, (int, float)) and (a == b or abs(a - b) <= 1e-6 * max(1.0, abs(a)))
    return type(a) is type(b) and a == b


class Late(Exception):
    pass


def within_a_second(work):
    def late(*_):
        raise Late
    signal.signal(signal.SIGALRM, late)
    signal.alarm(1)
    try:
        return "value", work()
    except Late:
        return "late", None
    except Exception as e:
        return "error", type(e).__name__
    finally:
        signal.alarm(0)


def made(code, name):
    builtins = __builtins__ if isinstance(__builtins__, dict) else vars(__builtins__)
    scope = {"__builtins__": {n: builtins[n] for n in BUILTINS} | {"print": lambda *_, **__: None}}
    exec(compile(code, "answer", "exec"), scope)
    return scope[name]


def disagreement(code, case, verdict):
    """Where an answer differs from its reference on given and generated arguments."""
    reference = case["reference"]
    theirs = made(reference, ast.parse(reference).body[0].name)
    how, ours = within_a_second(lambda: made(code, case["name"]))
    if how != "value":
        return f"the definition fails: {ours or how}"
    draw = random.Random(case["name"])
    asked = list(case["arguments"])
    for given in case["arguments"]:
        value = ast.literal_eval(given)
        asked += [repr(tuple(another(x, draw) for x in value)) for _ in range(GENERATED)]
    for text in asked:
        # Each gets arguments of its own: a function may change a list.
        how, want = within_a_second(lambda: theirs(*ast.literal_eval(text)))
        if how != "value":
            continue        # not arguments of this function
        how, got = within_a_second(lambda: ours(*ast.literal_eval(text)))
        if how != "value" or not same(got, want):
            return f"{case['name']}{text} gives {got!r} ({how}), not {want!r}"
        verdict["compared"] += 1
    return None if verdict["compared"] >= LEAST else "too few arguments fit the reference"


def judge(case):
    verdict = {"parses": False, "signature": False, "agrees": False, "compared": 0, "why": ""}
    code = code_of(case["answer"])
    if code is None:
        return verdict | {"why": "no Python in it"}
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        return verdict | {"why": f"it does not parse: {e}"}
    if not functions(tree):
        return verdict | {"why": "it defines no function"}
    verdict["parses"] = True
    function = next((f for f in functions(tree) if f.name == case["name"]), None)
    if function is None:
        return verdict | {"why": f"no function is called {case['name']}"}
    wrong = signature(function, case)
    verdict["signature"] = wrong is None
    if wrong is None:
        wrong = harmless(tree) or disagreement(code, case, verdict)
        verdict["agrees"] = wrong is None
    return verdict | {"why": wrong or ""}


cases = json.load(sys.stdin)
limits()
print(json.dumps([judge(case) for case in cases]))
