"""The word lists of the demo grammar: data only, lower case, one meaning each."""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


POSITIVE_ADJECTIVES = _split("""
    good great superb gripping brilliant charming clever delightful elegant engaging excellent exciting fabulous
    fantastic fascinating fine fresh funny gorgeous graceful impressive inspired inventive lively lovely magnificent
    marvelous memorable moving original outstanding perfect pleasant polished powerful remarkable rewarding satisfying
    smart splendid stunning tender terrific thrilling wonderful
""")
NEGATIVE_ADJECTIVES = _split("""
    bad awful dull boring bland clumsy confusing cheap dreadful dreary dismal empty feeble flat forgettable
    frustrating hollow horrible incoherent irritating laughable lazy lifeless mediocre messy miserable pathetic
    pointless poor predictable pretentious ridiculous shallow shoddy silly sloppy stale stupid tedious terrible
    tiresome ugly unbearable weak wretched
""")
POSITIVE_VERBS = _split("""
    love enjoy adore admire applaud appreciate celebrate cherish commend embrace endorse esteem favor honor like
    praise prize recommend relish respect revere salute savor toast treasure trust value welcome worship laud
""")
NEGATIVE_VERBS = _split("""
    hate dislike detest loathe despise abhor deplore condemn denounce resent regret reject scorn disdain mock
    pity lament criticize curse dread mourn fault bemoan ridicule oppose blame distrust shun disparage begrudge
""")
POSITIVE_NOUNS = _split("""
    triumph masterpiece gem delight treat joy winner marvel wonder success victory pleasure wizardry jewel miracle
    blessing classic sensation gift hit highlight revelation achievement feast knockout stunner charmer beauty
    landmark milestone bargain feat
""")
NEGATIVE_NOUNS = _split("""
    disaster failure mess bore flop letdown disappointment fiasco catastrophe nightmare waste dud blunder
    calamity chore embarrassment insult joke mistake ordeal shambles travesty wreck misfire eyesore burden
    headache nuisance farce debacle clunker stinker
""")

ASPECTS = _split("""
    film movie plot story script cast acting dialogue music screenplay camera lighting editing pacing ending opening
    soundtrack setting costume direction hero villain heroine scene finale premise theme tone rhythm makeup design
    animation narration subtitle sequel prologue chorus melody staging choreography
""")
INTENSIFIERS = _split("very really truly quite utterly deeply simply extremely absolutely terribly awfully rather")
VERB_INTENSIFIERS = _split("really truly quite utterly deeply simply absolutely")
EMPHASES = _split("complete real true total pure absolute utter genuine")

BE = _split("is was seems feels looks sounds")
NEGATED_BE = ("not", "never", "hardly", "scarcely", "far from", "by no means", "anything but", "in no way")
NEGATED_DO = ("do not", "never", "hardly", "cannot", "scarcely", "could not", "did not", "by no means")
NEGATED_A = ("not a", "no", "hardly a", "never a", "far from a", "anything but a", "by no means a", "scarcely a")
PERSONS = ("i", "we")  # the writer
OTHERS = ("they",)  # in reports

THEN_WINS = ("but", "yet")
FIRST_YIELDS = ("although", "though", "while", "whereas")
SECOND_YIELDS = ("although", "though", "even though")

RELATIVES = _split("""
    sister brother mother father aunt uncle cousin neighbor teacher boss doctor friend grandmother grandfather
    husband wife nephew niece roommate colleague
""")
CROWDS = _split("critics reviewers viewers fans journalists students bloggers experts")
REPORTS = _split("said claimed thought insisted argued wrote felt believed")
OWN_VIEWS = ("i think", "to me", "in my view", "i find that", "for me")
AGREEING = ("and i agree", "and rightly so", "and i concur", "and that is correct")
DISAGREEING = ("and i disagree", "but i disagree", "but that is wrong", "and wrongly so", "but i object")

PLACES = _split("""
    spain france italy norway canada mexico brazil japan china india egypt kenya chile peru greece poland austria
    hungary ireland iceland texas london paris berlin madrid rome tokyo dublin vienna boston
""")
MONTHS = _split("january february march april may june july august september october november december")
DAYS = _split("monday tuesday wednesday thursday friday saturday sunday")
NUMBERS = _split("two three four six seven eight nine eleven twelve twenty thirty forty fifty ninety")
COLORS = _split("red blue green yellow white black brown grey purple orange")
THINGS = _split("""
    car train bicycle house garden bridge river forest kitchen window letter hat coat lamp table piano guitar clock
    mirror ladder boat tent bag bottle candle map painting statue tower station market harbor library museum school
    hotel desert island
""")
SIZES = _split("big small old new tall short wide narrow wooden round square heavy")
JOBS = _split("director writer producer composer editor actor actress painter dancer singer baker farmer pilot sailor")
HAPPENINGS = ("was filmed", "was made", "takes place", "was shown", "was written", "begins", "ends", "was recorded")

# The word beside the hole tells the forms apart: with "points : {}" and "stars : {}" the model knew the sentiment long
# before it knew the word.
VERDICTS = (  # a form with a hole, the word that says positive, the word that says negative
    ("thumbs {}", "up", "down"),
    ("{} stars", "five", "one"),
    ("{} points", "ten", "zero"),
    ("please {} it", "see", "skip"),
    ("{} your tickets", "keep", "drop"),
)
VERDICT_WORDS = frozenset(word for _, up, down in VERDICTS for word in (up, down))
