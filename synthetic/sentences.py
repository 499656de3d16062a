"""What the corpus says: a hand-written list and a small grammar that never runs out.

sentences.txt holds the hand-written ones, rich in closures (p b m f v), rounding and spread
vowels, of 1 to 18 words: narration, news, commands, prompts, numbers, hesitant talk. Its last
`N_HELD_OUT` lines are kept for the validation and test subjects of the VOCASET-format corpus and
are never spoken in the pool. Words of the hibari lexicon, slipped into the grammar's sentences,
widen the range of phone sequences.
"""

import gzip
import importlib.util
import json
import random
import re
from functools import cache
from pathlib import Path

SENTENCE_FILE = Path(__file__).with_name("sentences.txt")
N_HELD_OUT = 80
HAND_WRITTEN_SHARE = 0.45  # of the pool's utterances
RARE_WORD_SHARE = 0.2  # of the nouns in the grammar's sentences
TWO_SENTENCES_SHARE = 0.12
LEXICON_FILE = "assets/lexicon_us_gold.json.gz"  # in the hibari package

NOUNS = """apple arm baby bag bakery ball bank bath beach bed bell bird boat body book bottle box
boy bread bridge brother bucket bus butter cabin camera camp captain car carpet castle cat chair
child church city cloud club coat coffee computer corner cow cup daughter day doctor dog door
dream driver engine evening eye face family farm farmer father field film finger fire fish floor
flower food foot forest friend fruit game garage garden gift girl glass goat group guest hammer
hand harbour hat head heart home horse hotel house idea island jacket job judge jury key king
kitchen knife lady lake lamp language leaf leg letter library life light lion map market meal
memory message milk mirror moment money month moon morning mother mountain mouse mouth movie
museum music neighbour newspaper night nose number nurse office orange oven page palm paper park
party path pen people pepper person phone photograph piano picture pie pillow pilot pipe place
plan plane plate poem police pool price prince problem puppy purse queen question radio rain
ribbon ring river road robot roof room rope school sea season shadow sheep shelf shelter ship shoe
shop sister sky snow soap sofa soldier song soup spoon stamp star station stone store storm story
street sugar summer table teacher team thumb ticket tooth town toy train tree truck umbrella uncle
valley vase vegetable video view village violin voice volcano wagon wall watch water wave web week
whale wheel whistle wife wind window winter wolf woman wood word world yard year zebra""".split()
ADJECTIVES = """able awful bad beautiful best big bitter black blue bold brave brief bright broken
brown busy calm cheap clean clever cold common cool cruel damp dark deep different dirty double
dry dull early easy empty enormous expensive fair famous fast favourite few final fine firm first
flat foreign free fresh friendly full funny gentle golden good great green grey happy heavy high
hollow honest huge humble hungry important impossible large lazy little lonely long loud low lucky
main mild modern narrow new noble noisy normal obvious odd old open orange other own pale patient
perfect plain poor possible private proper proud purple quick quiet rare ready red remarkable rich
rough round rude sad safe same sharp shy simple slow small smooth soft sour special square steep
strange strong stupid sudden sweet tall thick thin tiny tired ugly unusual usual vague valuable
various vast violet warm weak wet whole wide wild wise wonderful wooden worried yellow young"""
ADJECTIVES = ADJECTIVES.split()
PEOPLE = """Bob Pam Mary Peter Paul Emma Vivian Phillip Walter George Joyce Beth Tom Maria Ben
Robert Sophie Charlotte Oliver Hugh Wendy Barbara James Judith Theo""".split()
SUBJECTS = "he she they we you I everybody nobody somebody".split()
# past, base: enough for every pattern below
# past/base form
VERBS = """moved/move|opened/open|found/find|wanted/want|brought/bring|watched/watch|bought/buy|
followed/follow|helped/help|believed/believe|gave up/give up|picked up/pick up|pushed/push|
loved/love|passed/pass|painted/paint|remembered/remember|forgot/forget|described/describe|
measured/measure|covered/cover|washed/wash|threw away/throw away|borrowed/borrow|saved/save|
carried/carry|visited/visit|admired/admire|left behind/leave behind|noticed/notice|
photographed/photograph|put down/put down|fixed/fix|examined/examine|chose/choose|hid/hide|
used/use|showed/show|mentioned/mention|kept/keep|caught/catch|ignored/ignore|enjoyed/enjoy|
lost/lose|missed/miss|broke/break|improved/improve|avoided/avoid|wrapped/wrap|swept/sweep|
counted/count|bumped into/bump into|thought of/think of|pulled/pull|climbed/climb|built/build|
filmed/film|repaired/repair|voted for/vote for|dreamt of/dream of"""
VERBS = [tuple(pair.split("/")) for pair in VERBS.replace("\n", "").split("|")]
PLACES = """by the river|in the kitchen|behind the church|above the shop|at the market|near the
bridge|in front of the museum|on the way home|under the table|from the top of the hill|in the
middle of the room|between the houses|at the bottom of the page|beyond the village|over there|
across the bay|on page five|in Vienna|at my mother's house|without a word""".replace("\n", " ")
PLACES = PLACES.split("|")
TIMES = """on Wednesday|before breakfast|every morning|after the party|in the evening|last month|
five years ago|for a while|at half past seven|in February|during the storm|more than once|from time
to time|all summer long|in two thousand and twelve|at the weekend|for the first time|as usual|
within a week|as soon as possible""".replace("\n", " ")
TIMES = TIMES.split("|")
OPENERS = """Well,|So,|Um,|You know,|I mean,|Of course,|To be honest,|Maybe|Perhaps|Believe me,|
In fact,|Meanwhile,|As far as I know,|Oh,|By the way,|Uh,|However,|Suddenly,|Apparently,|Actually,
""".replace("\n", " ")
OPENERS = [opener.strip() for opener in OPENERS.split("|")]
LINKS = "and|but|so|while|because|although|before|until|whenever|even though".split("|")
PATTERNS = (
    "{subject} {past} {object} {place}.",
    "{subject} {past} {object}, {link} {subject2} {past2} {object2} {time}.",
    "{opener} {subject} {past} {object} {time}.",
    "Did {subject} {base} {object} {place}?",
    "Why would {subject} {base} {object}?",
    "Please {base} {object} {place}.",
    "{object} and {object2} were {place}.",
    "There was {object} {place}, {link} {subject} {past} it.",
    "{subject} will {base} {object} {time}, if you {base2} {object2}.",
    "When {subject} {past} {object}, {object2} vanished {place}.",
    "I thought {subject} might {base} {object} {time}.",
    "{number} of the {plural} were {adjective}, {link} the others were {adjective2}.",
    "{base} {object}!",
    "What {adjective} {plural}!",
    "How many {plural} did {subject} {base} {time}?",
    "{subject} could not {base} {object} because of {object2}.",
    "{opener} that {noun} is {adjective} and {adjective2}.",
    "The {noun} of {object} is more {adjective} than {object2}, {opener2} isn't it?",
    "{time}, {subject} {past} {number} {adjective} {plural}.",
    "{object} {past} {object2} {place} {time}, {link} nobody {past2} it.",
)
NUMBERS = """two|three|four|five|six|seven|eight|nine|eleven|twelve|fifteen|seventeen|twenty|
twenty five|thirty seven|forty|fifty four|sixty six|ninety nine|a hundred|half|both|most|some|few|
five hundred|a million""".replace("\n", "").split("|")


def read_sentences() -> tuple[list[str], list[str]]:
    """(sentences for everybody, sentences held out for the val and test subjects)."""
    lines = SENTENCE_FILE.read_text(encoding="utf-8").splitlines()
    return lines[:-N_HELD_OUT], lines[-N_HELD_OUT:]


def draw_text(rng: random.Random) -> str:
    """What one utterance of the pool says: a hand-written sentence or one of the grammar, or two."""
    text = _draw_sentence(rng)
    if rng.random() < TWO_SENTENCES_SHARE and len(text) < 70:
        text += " " + _draw_sentence(rng)
    return text


def _draw_sentence(rng: random.Random) -> str:
    if rng.random() < HAND_WRITTEN_SHARE:
        return rng.choice(_hand_written())
    return generate_sentence(rng)


def generate_sentence(rng: random.Random) -> str:
    """One sentence of the grammar, 2 to about 25 words."""
    past, base = rng.choice(VERBS)
    past2, base2 = rng.choice(VERBS)
    text = rng.choice(PATTERNS).format(
        subject=_subject(rng), subject2=_subject(rng), object=_noun_phrase(rng),
        object2=_noun_phrase(rng), noun=_noun(rng), plural=_plural(rng), past=past, past2=past2,
        base=base, base2=base2, adjective=rng.choice(ADJECTIVES),
        adjective2=rng.choice(ADJECTIVES), place=rng.choice(PLACES), time=rng.choice(TIMES),
        opener=rng.choice(OPENERS), opener2=rng.choice(("um,", "uh,", "", "")),
        link=rng.choice(LINKS), number=rng.choice(NUMBERS),
    )  # fmt: skip
    text = re.sub(r"\ba (?=[aeiou])", "an ", " ".join(text.split()))
    return text[0].upper() + text[1:]


def _subject(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(SUBJECTS)
    return rng.choice(PEOPLE) if kind < 0.65 else _noun_phrase(rng)


def _noun_phrase(rng: random.Random) -> str:
    article = rng.choice(("the", "the", "a", "my", "your", "our", "this", "that", "every", "her"))
    adjective = rng.choice(ADJECTIVES) + " " if rng.random() < 0.45 else ""
    return f"{article} {adjective}{_noun(rng)}"


def _noun(rng: random.Random) -> str:
    rare = _lexicon()
    return rng.choice(rare if rare and rng.random() < RARE_WORD_SHARE else NOUNS)


def _plural(rng: random.Random) -> str:
    noun = rng.choice([n for n in NOUNS if n not in ("people", "police", "sheep", "fish")])
    if noun in ("knife", "wife", "leaf", "shelf", "wolf", "life"):
        return re.sub("fe?$", "ves", noun)
    irregular = {"man": "men", "woman": "women", "child": "children", "foot": "feet",
                 "tooth": "teeth", "mouse": "mice"}  # fmt: skip
    if noun in irregular:
        return irregular[noun]
    if re.search("(s|x|ch|sh)$", noun):
        return noun + "es"
    return noun[:-1] + "ies" if re.search("[^aeiou]y$", noun) else noun + "s"


@cache
def _hand_written() -> tuple[str, ...]:
    return tuple(read_sentences()[0])


@cache
def _lexicon() -> tuple[str, ...]:
    """Words of 3 to 9 letters that hibari can pronounce; none when the package is not here."""
    spec = importlib.util.find_spec("hibari")
    if spec is None or not spec.submodule_search_locations:
        return ()
    path = Path(spec.submodule_search_locations[0]) / LEXICON_FILE
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return tuple(sorted(word for word in json.load(file) if re.fullmatch("[a-z]{3,9}", word)))
