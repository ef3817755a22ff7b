"""Short stories: a hero, a wish or a problem, events that follow from each other, and an ending with a feeling.

A story is a path through a plot: one choice at each step. The words in braces are drawn when they are first needed
and are then remembered, so that a scarf stays red and a pronoun stays the same until the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from helpers.course_lm.corpus.base import Ingredient, Probe, an, sentence
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

Step = tuple[str, ...]

ANIMALS = ("fox", "bear", "mouse", "rabbit", "cat", "dog", "frog", "wolf", "duck", "owl", "hen", "turtle", "lion", "goat", "horse", "pig")
ANIMAL_MANNERS = ("little", "young", "clever", "hungry", "lazy", "brave", "shy", "friendly", "curious", "old")
CHILD_MANNERS = ("kind", "clever", "brave", "shy", "quiet", "cheerful", "curious", "little")
FORMS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}
CHILD = {"he": "boy", "she": "girl"}
RELATIVES = ("mother", "father", "grandmother", "grandfather", "aunt", "uncle", "teacher")

# An opening is a phrase before the first sentence, or a first sentence of its own (it then ends in a full stop).
OPENINGS = (
    "Once upon a time,", "One day,", "Yesterday", "It was a cold morning.", "Last summer", "One evening,", "Long ago,", "On a sunny day,",
    "It was raining.", "Last week", "One winter morning,", "It was a warm evening.", "On Monday", "The sun was shining.",
    "Early in the morning,",
    "Many years ago,", "It was a windy day.", "One afternoon,", "Not long ago,", "It was the first day of spring.",
)  # fmt: skip
RECENT = tuple(opening for opening in OPENINGS if not opening.startswith(("Once", "Long ago", "Many years")))

POOLS: dict[str, Step] = {
    "place": ("park", "garden", "forest", "village", "market", "library", "station", "old castle", "town", "field"),
    "thing": ("red scarf", "small key", "blue hat", "old book", "golden ring", "green umbrella", "new watch", "yellow ball", "wooden toy",
        "coat"),
    "spot": ("under a bench", "behind a tree", "in the grass", "near the river", "on the stairs", "in an old box", "under the bed",
        "by the door"),
    "outside": ("under a bench", "behind a tree", "in the grass", "near the river", "under a leaf", "between two stones", "on a wall"),
    "gift": ("a blue kite", "a small drum", "a warm scarf", "a picture book", "a wooden boat", "a box of sweets", "a new lamp",
        "a silver bell"),
    "dish": ("soup", "a cake", "bread", "pancakes", "a pie", "dinner", "a pizza", "cookies"),
    "plant": ("seed", "little tree", "sunflower", "rose", "bean", "tomato plant"),
    "pet": ("puppy", "kitten", "rabbit", "parrot", "turtle", "hamster"),
    "goal": ("the sea", "the mountain", "the big city", "the island", "the lighthouse", "the great lake", "the castle on the hill"),
    "ride": ("by train", "by bus", "on foot", "by boat", "on a bicycle", "in an old car"),
    "prize": ("a golden cup", "a big cake", "a basket of apples", "a silver medal", "a new book", "a red ribbon"),
    "contest": ("the singing contest", "the painting contest", "the chess contest", "the baking contest", "the dancing contest",
        "the spelling contest"),
    "broken": ("window", "vase", "cup", "lamp", "plate", "mirror", "clock", "chair"),
    "toy": ("boat", "kite", "train", "drum", "house of cards", "paper plane", "robot", "swing"),
    "fear": ("the dark", "the storm", "deep water", "the big dog", "high bridges", "the old house", "speaking in public"),
    "work": ("carry the wood", "paint the fence", "find the lost sheep", "clean the house", "pick the apples", "repair the roof",
        "feed the hens"),
    "noise": ("a strange noise", "a quiet song", "a loud knock", "a soft cry", "footsteps", "a bell"),
    "skill": ("swim", "ride a bicycle", "play the piano", "read a map", "bake bread", "skate", "whistle", "play the guitar"),
    "job": ("sold apples", "washed cars", "walked dogs", "worked in the garden", "delivered newspapers", "helped at the bakery"),
    "dear": ("bicycle", "guitar", "telescope", "pair of skates", "book about the stars", "violin", "camera"),
    "happy": ("happy", "glad", "proud", "cheerful", "happy", "pleased"),
    "sad": ("sad", "worried", "upset", "unhappy", "afraid", "nervous"),
    "said": ("said", "said", "said", "whispered", "cried", "called"),
    "soon": ("soon", "after a while", "at last", "a little later", "before long", "in the end", "finally"),
    "slowly": ("slowly", "carefully", "quickly", "quietly", "bravely", "patiently"),
}  # fmt: skip

ENDINGS: Step = (
    "{hero} went home and felt very {happy}.", "That night {hero} fell asleep with a smile.", "{hero} was {happy} for the rest of the day.",
    "It was the best day of the year.", "{hero} never forgot that day.", "In the evening they told everybody the story.",
    "Everybody was {happy}.",
    "{hero} smiled, because everything was well again.", "From that day on, {hero} and {friend} were best friends.",
    "{hero} laughed and danced.",
)  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """A way in which events follow from each other: predicates that begin it, then steps with alternatives."""

    start: Step
    steps: tuple[Step, ...]
    animals: bool = True


PLOTS: dict[str, Plot] = {
    "lost and found": Plot(
        ("lost {his} {thing} in the {place}", "could not find {his} {thing}", "noticed that {his} {thing} was gone",
         "dropped {his} {thing} on the way to the {place}", "left {his} {thing} in the {place}", "looked for {his} {thing} everywhere"),
        (("{He} was very {sad}.", "{He} searched the whole {place}, but found nothing.", "{hero} sat down and cried.",
          "{He} asked everybody in the {place}.", "It was a present from {adult}, and {he} loved it."),
         ("{soon} {friend} came along. \"What are you looking for?\"", "Then {friend} offered to help.",
             "{friend} said: \"Let us look together!\"",
          "{hero} asked {friend} for help.", "Luckily {friend} had good eyes."),
         ("They found the {thing} {outside}.", "Together they looked again, and there it was, {outside}!",
             "The {thing} was lying {outside}.",
          "After an hour they discovered it {outside}.", "A bird was sitting {outside}, and next to it lay the {thing}."),
         ("{hero} thanked {friend} and was {happy}.", "\"Thank you!\" {said} {hero}.", "{hero} gave {friend} a big hug.",
             "{hero} promised to be more careful.")),
    ),
    "a gift": Plot(
        ("wanted to give {friend} a present", "had no money for a present", "looked for a birthday present in the {place}",
         "made {gift} for {friend}", "bought {gift} for {friend}", "planned a surprise for {friend}"),
        (("It had to be something special.", "{He} worked on it for three days.", "{He} thought about it for a long time.",
          "{adult} helped {him} with the paper and the string.", "{He} hid it {spot}."),
         ("When the day came, {friend} opened the box and found {gift}.", "{friend} took the paper off and saw {gift}.",
          "At the party {hero} brought {gift}, and {friend} laughed for joy.", "{hero} put {gift} in front of the door and ran away."),
         ("\"It is just what I wanted!\" {said} {friend}.", "\"How did you know?\" {friend} asked.",
             "{friend} had never had a better present.", "They played with it all day.", ""),
         ("{hero} was even happier than {friend}.", "Giving made {hero} {happy}.", "{hero} felt warm inside.",
             "They ate cake until it was dark.")),
    ),
    "a race": Plot(
        ("wanted to win the big race", "entered a race through the {place}", "heard about a race to {goal}", "ran a race against {friend}",
         "began to train for the race", "was the slowest runner in the {place}"),
        (("Everybody laughed at {him}.", "At first {friend} was much faster.", "{He} started {slowly}.",
            "{hero} and {friend} stood next to each other at the start.",
          "The road was long and the sun was hot."),
         ("Then {friend} fell and hurt a leg.", "Halfway, {friend} stopped to sleep {spot}.", "But {friend} took the wrong road.",
             "After the bridge {friend} became tired."),
         ("{hero} stopped and helped {friend}.", "{hero} could have passed, but {he} waited.",
             "{hero} gave {friend} some water and ran on.", "{hero} kept going, step by step."),
         ("They crossed the line together.", "{hero} came in first and won {prize}.", "{hero} was second, but everybody cheered for {him}.",
             "{hero} won by a second and shared {prize} with {friend}."),
         ("{hero} had never been so {happy}.", "\"Well done!\" {said} {adult}.", "{hero} was tired but {happy}.", "What a day!")),
    ),
    "a rainy day": Plot(
        ("wanted to play outside, but it rained", "sat at the window and looked at the rain", "was bored, because the rain did not stop",
         "planned a walk to the {place}, but a storm came", "got wet on the way to the {place}",
         "could not leave the house, because it rained"),
        (("\"What shall we do?\" {he} asked {friend}.", "The clouds were dark and heavy.", "The wind shook the trees.",
            "There was water everywhere."),
         ("{friend} had an idea and built a {toy}.", "Together with {friend}, {he} made a tent out of blankets.",
             "{adult} told them an old story about {goal}.",
          "{hero} and {friend} baked {dish}.", "They put on big boots and jumped into the water."),
         ("Nobody noticed how the hours passed.", "They laughed so much that they forgot the rain.",
             "Soon the whole room was full of toys.", "It was warm and dry inside."),
         ("{soon} the sun came out again.", "When the rain stopped, there was a rainbow.", "In the evening the sky was clear.",
             "The rain went on, but nobody cared."),
         ("\"I like rain,\" {said} {hero}.", "{hero} was {happy} after all.", "{hero} hoped that it would rain again.",
             "Now {hero} was almost sorry that it was over.")),
    ),
    "helping a friend": Plot(
        ("met {friend}, who looked very {sad}", "saw {friend} crying in the {place}", "got a letter from {friend}",
            "heard that {friend} was ill",
         "visited {friend}, who had to {work}", "found {friend} alone in the {place}"),
        (("\"What is the matter?\" {hero} asked.", "{hero} wanted to help.", "{hero} did not wait a minute.",
            "{hero} sat down next to {friend}."),
         ("{friend} had to {work}, but was too tired.", "\"I must {work}, and I cannot do it alone,\" {said} {friend}.",
             "{friend} could not {work} without help.",
          "There was so much to do, and nobody was there to {work}."),
         ("So {hero} stayed until the evening, and they did it together.", "{hero} worked {slowly}, and {soon} everything was done.",
          "{hero} called all the neighbours, and everybody came.", "With four hands the work was easy."),
         ("{friend} made {dish} for everybody.", "\"You are a true friend,\" {said} {friend}.", "{friend} smiled again.",
             "Afterwards they sat by the fire and sang.", "")),
    ),
    "cooking goes wrong": Plot(
        ("wanted to make {dish} for {adult}", "tried to cook {dish}", "cooked {dish} for the first time", "decided to make {dish}",
            "invited {friend} and made {dish}",
         "found an old recipe for {dish}"),
        (("{He} took salt instead of sugar.", "But {he} forgot to look at the clock.", "{He} put ten eggs into the bowl.",
            "{He} did not read the recipe to the end.",
          "The telephone rang, and {he} forgot the oven."),
         ("Soon there was black smoke in the kitchen.", "It smelled terrible.", "The kitchen was white with flour.",
             "When {friend} tasted it, {friend} made a face.",
          "The pot was burnt and the food was hard."),
         ("\"Oh no!\" {said} {hero}.", "{hero} was {sad}.", "{hero} almost cried.", "\"What have I done?\" {hero} asked.", ""),
         ("{friend} laughed and said: \"Let us eat bread and cheese!\"", "{friend} helped {him}, and they began again.",
             "Then {adult} showed {him} how to do it.",
          "In the end they ordered a pizza.", "They cleaned the kitchen and went out to eat."),
         ("It was a wonderful evening after all.", "The second time it was perfect.", "They still laugh about it today.",
             "Next time {hero} will be more careful.")),
    ),
    "a new pet": Plot(
        ("wished for a {pet}", "got a {pet} for {his} birthday", "found a {pet} in the {place}", "heard a small {pet} crying {spot}",
            "asked {adult} for a {pet}",
         "saw a lonely {pet} in the {place}"),
        (("The {pet} was hungry and cold.", "It was so small that it slept in a shoe.", "At first the {pet} was afraid.",
            "The {pet} looked at {him} with big eyes.",
          "Nobody knew where the {pet} had come from."),
         ("{hero} gave it water and a warm blanket.", "{hero} {slowly} brought it home.", "{hero} fed it every morning.",
             "{hero} spoke to it in a soft voice."),
         ("After some days it followed {him} everywhere.", "Then it ran away, and {hero} searched the {place}.",
             "Soon it learned its name and came when {he} called.",
          "One night it woke everybody, because the kitchen was on fire.", "Then it ate {his} homework, and {hero} had to laugh."),
         ("\"May I keep it?\" {he} asked, and {adult} nodded.", "{adult} liked it too.",
             "{hero} came home and found it asleep on {his} bed.", "{hero} called it Lucky."),
         ("The {pet} stayed, and {hero} was {happy}.", "They grew up together.", "{hero} was never lonely again.",
             "{hero} loved it more than anything.")),
        animals=False,
    ),
    "a journey": Plot(
        ("wanted to see {goal}", "dreamed of {goal}", "travelled to {goal} {ride}", "left the {place} to find {goal}",
            "set out for {goal} {ride}",
         "packed a bag and went to {goal}"),
        (("The way was long and {he} grew tired.", "On the way {he} met {friend}.", "{He} had only bread and a map.",
            "For two days {he} saw nobody.",
          "\"Take care of yourself!\" {adult} had said."),
         ("A river stopped {him}, but {friend} knew a bridge.", "In the night {he} heard {noise} and could not sleep.",
             "At a crossing {he} took the wrong road.",
          "Then snow began to fall.", "{He} lost the map, but the stars showed {him} the way."),
         ("{soon} {he} reached {goal}.", "When the sun rose, {he} saw {goal} in front of {him}.", "On the third day {he} came to {goal}.",
             "And then, behind the last hill, was {goal}."),
         ("It was more beautiful than in any book.", "\"At last!\" {said} {hero}.", "{He} stood still and said nothing.",
             "It was smaller than {he} had thought, but {he} loved it."),
         ("{hero} was {happy}, but also a little homesick.", "{hero} stayed for a week and then went home.",
             "{hero} wrote a long letter to {adult}.", "Now {he} has a story to tell.")),
    ),
    "a secret": Plot(
        ("had a secret", "discovered a secret door in the {place}", "heard {noise} behind the wall", "found an old letter {spot}",
            "promised to keep a secret",
         "found a map {spot}"),
        (("{He} told only {friend}.", "{He} did not tell anybody about it.", "{friend} asked and asked, but {hero} said nothing.",
            "{He} could not sleep that night.",
          "\"Can you keep a secret?\" {he} asked {friend}."),
         ("In the night they took a lamp and went to the {place}.", "They followed the signs {slowly}.",
             "Behind a stone there was a dark room.", "They counted twenty steps and began to dig."),
         ("There they found a box with {gift}.", "Inside was a picture of {adult} as a child.", "A family of cats was living there.",
             "They discovered a garden that nobody knew.",
          "The box was empty, but there was a note: \"You are clever!\""),
         ("They laughed until the sun came up.", "\"This is our place now,\" {said} {friend}.",
             "They told nobody, and it is still their secret.", "{adult} only smiled."),
         ("{hero} was {happy} to share it with {friend}.", "A shared secret is twice as good.", "Nobody ever heard of it.", "")),
    ),
    "a lie and an apology": Plot(
        ("broke a {broken} and told nobody", "told a lie about a {broken}", "broke the {broken} of {friend} while playing",
            "hid a broken {broken} {spot}",
         "said that {friend} had broken the {broken}", "borrowed the {thing} of {friend} and lost it"),
        (("\"It was not me,\" {said} {hero}.", "When {adult} asked, {hero} looked away.", "{hero} blamed the wind.",
            "{hero} hoped that nobody would ask."),
         ("But {he} could not eat or sleep.", "{friend} was punished for it and cried.", "All day {he} had a bad feeling.",
             "The lie grew bigger every hour.", "Then {friend} found out the truth."),
         ("The next morning {he} told the truth.", "\"I am sorry. I lied,\" {he} said at last.", "{hero} went to {friend} and apologized.",
             "{hero} wrote a letter that began: \"I am so sorry.\""),
         ("{adult} was not angry.", "\"I forgive you,\" {said} {friend}.", "Together they repaired everything.",
             "{friend} was quiet for a moment and then took {his} hand.",
          "{adult} said: \"It was brave to tell the truth.\""),
         ("{hero} felt much better.", "{hero} never lied again.", "It was as if a stone had fallen from {his} heart.",
             "{hero} and {friend} were friends again.")),
    ),
    "growing a plant": Plot(
        ("planted a {plant} in the garden", "got a {plant} from {adult}", "found a {plant} {spot}", "wanted to have a garden",
            "bought a {plant} at the market",
         "put a {plant} into a pot"),
        (("Every morning {he} gave it water.", "For weeks nothing happened.", "{He} put it in the sun and waited patiently.",
            "{friend} said that it would never grow."),
         ("But one day there was a green leaf.", "Then the cold came, and {he} covered it with a blanket.",
             "A snail ate the leaves, and {he} was {sad}.", "The rain came, and it began to grow.",
          "\"Be patient,\" {said} {adult}."),
         ("In summer it was taller than {hero}.", "{soon} it had a hundred flowers.", "In autumn there was fruit on it.",
             "{soon} bees and birds came to visit it."),
         ("{hero} gave the first flower to {friend}.", "Even {friend} had to admit that it was beautiful.",
             "Now the whole street comes to see it.", "{hero} was very {happy}.")),
    ),
    "a contest": Plot(
        ("wanted to win {contest}", "took part in {contest}", "was too shy for {contest}", "dreamed of winning {contest}",
            "prepared for {contest} with {friend}",
         "read about {contest} in the newspaper"),
        (("The first prize was {prize}.", "{He} practised for weeks.", "\"You can do it!\" {said} {friend}.",
            "Two hundred people came to watch.", "{adult} sat in the first row."),
         ("When {his} turn came, {his} legs were shaking.", "First came {friend}, who was very good.",
             "In the middle {he} made a mistake, but {he} went on.", "Suddenly the light went out.",
          "{He} closed {his} eyes and began."),
         ("The people clapped for a long time.", "It was quiet, and then everybody cheered.", "The judges smiled and wrote something down.",
             "Nobody had ever seen anything like it."),
         ("{hero} won {prize}.", "{friend} won, and {hero} was the first to say: \"Well done!\"", "{hero} came third and got {prize}.",
             "They both won and shared {prize}.",
          "{hero} did not win, but {he} was not afraid any more."),
         ("{hero} was {happy}.", "Next year {he} will try again.", "{adult} was {happy} too.", "")),
    ),
    "a fear": Plot(
        ("was afraid of {fear}", "told nobody about {his} fear of {fear}", "could not sleep because of {fear}",
            "did not want to hear about {fear}"),
        (("The others laughed, but {friend} did not.", "{friend} took {his} hand.", "\"I was afraid too,\" {said} {adult}.",
            "{He} always stayed at home."),
         ("But then {friend} needed help.", "One night {he} heard {noise} and knew that {friend} was in danger.",
             "{soon} {friend} had a plan.", "\"Let us try it together,\" {said} {friend}."),
         ("{hero} took a deep breath and went on.", "{hero} counted to ten and opened {his} eyes.",
             "{His} heart was beating fast, but {he} did not turn back.", "Step by step {he} went on."),
         ("It was not so bad after all.", "{soon} {he} noticed that {he} was laughing.", "Nothing happened, and {friend} was safe.",
             "{He} had done it!"),
         ("Now {hero} is not afraid any more.", "{hero} was very {happy}.", "\"How brave you are!\" {said} {friend}.",
             "To be brave is to be afraid and to go on.")),
    ),
    "learning": Plot(
        ("wanted to learn to {skill}", "could not {skill}", "asked {adult} how to {skill}",
            "was the only one in the {place} who could not {skill}", "decided to learn to {skill}"),
        (("It looked so easy.", "The first time it went wrong.", "{friend} showed {him} how to do it.", "{He} tried it ten times a day.",
            "\"I will never learn it!\" {said} {hero}."),
         ("{adult} said: \"Nobody is born a master.\"", "{He} wanted to give up, but {friend} did not let {him}.",
             "{He} made many mistakes and learned from them.", "{He} practised in the {place}, where nobody could see {him}."),
         ("{soon} it went better.", "Then, one morning, it worked!", "After a month {he} could do it alone.",
             "{soon} {he} could {skill} better than {friend}."),
         ("{hero} shouted for joy.", "{adult} was {happy} and clapped.", "Now {he} teaches the others.",
             "{hero} was {happy} and wanted to learn more.")),
    ),
    "saving money": Plot(
        ("wanted to buy a {dear}", "saw a {dear} in a shop", "dreamed of a {dear}", "began to save money for a {dear}",
            "asked for a {dear}, but it was too expensive"),
        (("So {he} {job}.", "All summer {he} {job}.", "Every weekend {he} {job} with {friend}.",
            "{He} {job} and put every coin into a glass."),
         ("{soon} the money was enough.", "In autumn {he} counted the coins.", "But then {friend} fell ill and needed medicine.",
             "When {he} came to the shop, the {dear} was gone.", "One day the glass was full."),
         ("{hero} thought for a while and shared the money with {friend}.", "{hero} gave half of it to {friend}.",
             "{hero} spent the money on {gift} for {adult} instead.", "{hero} went to {adult} and told the whole story."),
         ("On {his} birthday there was a {dear} on the table.", "Then {adult} came in with a {dear}.",
             "{adult} was so proud that they went and bought a {dear}."),
         ("{hero} could not believe it.", "{hero} cried for joy.", "\"You have earned it,\" {said} {adult}.", "{hero} was {happy}.")),
        animals=False,
    ),
    "building something": Plot(
        ("built a {toy}", "wanted to build a {toy}", "built a {toy} with {friend}", "found some wood and made a {toy}",
            "promised to make a {toy} for {friend}"),
        (("{He} needed paper, glue and a lot of time.", "{adult} gave {him} a hammer and some nails.", "It was ready after a whole week.",
            "{friend} painted it red and yellow."),
         ("But the wind blew and broke it.", "The first one fell apart at once.", "Then a big dog jumped on it.",
             "Then {friend} stepped on it by mistake.", "But it was too heavy and did not work."),
         ("{hero} was angry for a moment.", "\"It does not matter,\" {said} {hero}.", "{hero} looked at the pieces and thought.",
             "{friend} was very sorry."),
         ("They built a better one together.", "The second one was stronger.", "{adult} helped, and {soon} it was as good as new.",
             "{hero} began again and worked {slowly}."),
         ("{hero} was {happy} with it.", "It still stands in {his} room.", "Everybody in the {place} wanted to see it.",
             "\"Now it is perfect,\" {said} {friend}.")),
    ),
    "a stranger": Plot(
        ("met a stranger in the {place}", "heard a knock at the door", "saw an old man on the road to the {place}",
            "opened the door for a stranger", "gave {his} last bread to a stranger"),
        (("\"I have not eaten for two days,\" the stranger said.", "The stranger was wet and tired.",
            "The stranger asked for a glass of water.", "{friend} was afraid, but {hero} was not."),
         ("{hero} invited the stranger to sit by the fire.", "{hero} shared {dish} with the stranger.",
             "{hero} offered the stranger a bed.", "{hero} showed the stranger the way to {goal}."),
         ("In the morning the stranger was gone, but {gift} lay on the table.",
             "\"You have a good heart,\" the stranger said and left {gift}.",
          "Years later a letter came, and with it {gift}.", "The stranger was a king and thanked {him} with {prize}."),
         ("{hero} never saw the stranger again.", "{hero} told {friend} about it.", "Kindness always comes back.",
             "{hero} was {happy}, and not because of the present.")),
    ),
    "a quarrel": Plot(
        ("quarrelled with {friend}", "did not want to share the {toy} with {friend}", "was jealous of {friend}",
            "wanted the same {toy} as {friend}", "shouted at {friend} in the {place}"),
        (("They did not speak for three days.", "\"I do not need you!\" {said} {friend}.", "Both of them were {sad}.",
            "{hero} played alone, but it was no fun."),
         ("Then a storm came, and they both hid in the same house.", "{adult} asked each of them to {work}.",
             "{soon} {hero} noticed how quiet it was without {friend}.", "One evening {friend} stood in front of the door."),
         ("\"I am sorry,\" they said at the same time.", "{hero} held out {his} hand.",
             "{friend} laughed first, and then {hero} laughed too.", "{hero} brought {dish} and said sorry."),
         ("After that they shared everything.", "{hero} could not remember why they had quarrelled.",
             "They were {happy} to be friends again.", "Two are better than one.")),
    ),
    "a dream": Plot(
        ("dreamed of flying over {goal}", "had a strange dream", "fell asleep {spot}", "dreamed that {he} could fly",
            "closed {his} eyes and dreamed"),
        (("In the dream {he} could talk to the moon.", "In the dream {friend} was as tall as a house.",
            "In the dream {he} rode a white horse through the clouds.", "In the dream everything was made of {dish}."),
         ("Suddenly {he} heard {noise}.", "Then {he} fell and fell.", "\"Come with me!\" a voice said.",
             "Then the sky turned dark, and {he} was {sad}."),
         ("{hero} woke up and looked around.", "When {he} opened {his} eyes, {adult} was standing there.",
             "It was only the clock, and it was morning.", "The sun was in {his} face."),
         ("But {gift} lay on the bed.", "{He} told {friend}, who had had the same dream.", "{He} painted a picture of it.",
             "{He} tried to fall asleep again, but could not."),
         ("{hero} was {happy} all day.", "{hero} wondered if it had been a dream at all.", "Some dreams are true, {hero} thought.", "")),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Trouble:
    """Something that one does, and what goes wrong with it: a little, more, and badly."""

    doing: str
    mild: Step
    medium: Step
    strong: Step


TROUBLES = (
    Trouble("painting the wall", ("A drop of paint fell on the floor.", "The brush was a little too wet."),
        ("The brush fell into the dirt.", "The paint was the wrong colour."),
            ("The whole bucket fell over and ruined the new carpet.", "The ladder fell and broke the big window.")),
    Trouble("baking a cake", ("There was a little flour on the sleeve.", "One egg was rather small."), ("The milk was sour.",
        "There was no sugar left."),
            ("The cake burst into flames and the kitchen was full of smoke.", "The oven exploded and the whole kitchen was black.")),
    Trouble("riding a bicycle", ("The bell did not ring.", "A leaf flew into the basket."), ("The chain came off.", "A tyre was flat."),
            ("The brakes broke and the bicycle crashed into a wall.", "A car crushed the bicycle completely.")),
    Trouble("writing a letter", ("There was a small spot on the paper.", "The pen was almost empty."), ("The pen broke in two.",
        "The last stamp was gone."),
            ("All the work of three weeks burned in the fire.", "A whole bottle of ink ruined the only copy.")),
    Trouble("working at the computer", ("The screen was a little dirty.", "There was a small mistake in a word."),
        ("The computer was terribly slow.", "The printer had no paper."),
            ("The computer crashed and a year of work was lost.", "Someone deleted all the files forever.")),
    Trouble("waiting for the train", ("The train was one minute late.", "The seat was a bit cold."), ("The train was an hour late.",
        "The ticket machine did not work."),
            ("The last train left with all the luggage on it.", "A thief stole the bag with all the money.")),
    Trouble("washing the dishes", ("A spoon fell into the water.", "The water was only warm."), ("A cup broke.", "There was no soap left."),
            ("The shelf fell down and every plate broke.", "The pipe burst and the whole house was under water.")),
    Trouble("hammering a nail", ("The nail was a little too short.", "The nail fell on the table."), ("The nail was bent again.",
        "The hammer slipped and scratched the table."),
            ("The hammer hit the thumb with full force.", "The whole wall came down with a crash.")),
    Trouble("sailing a boat", ("A little water splashed on the shoes.", "There was almost no wind."), ("The rope was full of knots.",
        "The map was wet."),
            ("The boat hit a rock and sank.", "The storm broke the mast and ripped the sail.")),
    Trouble("playing football", ("The ball rolled into the grass.", "One shoe was open."), ("The ball hit the post.",
        "The other team scored again."),
            ("The leg was broken and the season was over.", "They lost the final in the last second.")),
    Trouble("making dinner", ("The soup was a bit too hot.", "A pea rolled off the plate."), ("The rice was burnt.",
        "The tin opener was broken."),
            ("The pot fell and hot oil burned both hands.", "The dinner for forty guests was ruined.")),
    Trouble("driving to work", ("There was a little dust on the mirror.", "The radio was too quiet."), ("Every light was red.",
        "There was no place to park."),
            ("The engine exploded in the middle of the road.", "A truck crashed into the new car.")),
    Trouble("working in the garden", ("A flower was a bit crooked.", "The hat flew away for a moment."), ("The snails had eaten the salad.",
        "The hose had a hole."),
            ("A tree fell on the roof and destroyed the house.", "The goats had destroyed the whole garden.")),
    Trouble("taking photographs", ("The first picture was a little dark.", "A bird flew into the picture."), ("The battery was empty.",
        "All the pictures were grey."),
            ("The camera fell off the bridge and was lost.", "The new camera broke into a thousand pieces.")),
    Trouble("packing a suitcase", ("A sock was missing.", "One shirt was not quite dry."), ("The suitcase did not close.",
        "The zip was broken."),
            ("The passport was gone and the plane left without warning.", "The house caught fire and everything was lost.")),
    Trouble("building a house of cards", ("One card was a little bent.", "A card slid to the side."), ("The top fell down.",
        "The wind moved the table."),
            ("Somebody kicked the table and two days of work were destroyed.", "After ten hours the whole house crashed to the floor.")),
)  # fmt: skip

# The first exclamation of each grade is the usual one; it comes as often as all the others of its grade together.
EXCLAMATIONS: Mapping[str, Step] = {
    "mild": ("Oh dear", "Oops", "Goodness", "Oh well", "Dear me"),
    "medium": ("Darn", "Rats", "Bother", "Darn it", "Drat"),
    "strong": ("Damn", "Damn it", "Blast it all", "Hell", "Damn it all"),
}
VOICES: Mapping[str, Step] = {
    "mild": ("whispered", "murmured", "thought", "called"),
    "medium": ("cried", "called", "grumbled", "murmured"),
    "strong": ("shouted", "screamed", "yelled", "cried"),
}
BETWEEN = (
    "{friend} was watching.", "{friend} wanted to help.", "At first all went well.", "{He} was in a good mood.", "It was not easy.",
    "Then it happened.", "{He} was almost ready.", "{adult} was in the next room.", "{He} did not look for a moment.",
    "Nobody else was there.",
    "{He} had begun an hour before.", "{He} was thinking of {friend}.", "The radio was playing.", "{He} was in a hurry.",
)  # fmt: skip
MOODS: Mapping[str, Step] = {
    "mild": ("{He} was not really upset and went on.", "It was nothing, and {he} smiled.", "{He} laughed about it.",
        "It took only a moment, and all was well."),
    "medium": ("{He} was annoyed, but {he} tried again.", "{He} was a little angry and took a break.", "It took an hour to put it right.",
        "{friend} helped {him}, and it was soon forgotten."),
    "strong": ("{He} was furious and did not speak for hours.", "{He} was so angry that {friend} ran away.",
        "It took weeks until {he} could laugh about it.", "{He} threw {his} hat on the floor in anger."),
}  # fmt: skip


class Cast(dict[str, str]):
    """The words of one story: who takes part, and every slot as soon as it has been drawn."""

    def __init__(self, rng: Random) -> None:
        """Begins with nothing drawn."""
        super().__init__()
        self.rng = rng

    def __missing__(self, key: str) -> str:
        """Draws a slot at its first use; a key with a capital letter is the same slot with a capital letter."""
        if key[0].isupper():
            return sentence(self[key.lower()])
        if key in ("friend", "adult"):
            first, self[key] = self["first " + key], self["later " + key]
            return first
        drawn = self.rng.choice(POOLS[key])
        if key not in ("said", "soon"):
            self[key] = drawn.replace("a ", "the ", 1) if key in ("gift", "prize") else drawn
        return drawn

    def tell(self, template: str) -> str:
        """Fills the slots of one step."""
        return sentence(template.format_map(self))


def cast_of(world: World, rng: Random, animals: bool = True) -> Cast:
    """Draws a hero, a friend and a grown-up: children with names, or the animals of a tale."""
    pronoun = rng.choice(("he", "she"))
    cast = Cast(rng)
    if animals and rng.random() < 0.35:
        hero, friend, elder = rng.sample(ANIMALS, 3)
        cast |= {"key": hero, "hero": f"the {hero}", "new": an(f"{rng.choice(ANIMAL_MANNERS)} {hero}"), "kind": "tale"}
        cast |= {"first friend": an(friend), "later friend": f"the {friend}", "first adult": f"an old {elder}",
            "later adult": f"the old {elder}"}
    else:
        hero, friend, pronoun = _children(world, rng)
        relative = rng.choice(RELATIVES)
        his = FORMS[pronoun][2]
        cast |= {"key": hero, "hero": hero, "new": hero, "kind": CHILD[pronoun]}
        cast |= {"first friend": f"{his} friend {friend}", "later friend": friend, "first adult": f"{his} {relative}",
            "later adult": f"{his} {relative}"}
    cast |= zip(("he", "him", "his"), FORMS[pronoun], strict=True)
    return cast


def _children(world: World, rng: Random) -> tuple[str, str, str]:
    """Two different first names, and the pronoun of the first."""
    hero, friend = world.pick(rng, "firstnames"), world.pick(rng, "firstnames")
    while friend["name"] == hero["name"]:
        friend = world.pick(rng, "firstnames")
    return hero["name"], friend["name"], hero["pronoun"]


def introduction(cast: Cast, opening: str, start: str) -> str:
    """The first sentence or two: the opening, the hero, and the event with which the plot begins."""
    rng = cast.rng
    if opening.startswith(("Once", "Long ago", "Many years")) and rng.random() < 0.6:
        who = f"a {rng.choice(CHILD_MANNERS)} {cast['kind']} called {cast['hero']}" if cast["kind"] != "tale" else cast["new"]
        where = rng.choice(("there was {}", "there lived {}", "there was {} who lived near a forest", "there lived {} in a small house"))
        return f"{opening} {where.format(who)}. " + cast.tell(rng.choice(("One day {he} ", "One morning {he} ", "{He} ")) + start + ".")
    if opening.endswith("."):
        return f"{opening} {sentence(cast['new'])} " + start.format_map(cast) + "."
    return f"{opening} {cast['new']} " + start.format_map(cast) + "."


def _tell(cast: Cast, plot: Plot, opening: str) -> list[str]:
    """The sentences of one story; sometimes a common ending takes the place of the plot's own last step."""
    rng = cast.rng
    lines = [introduction(cast, opening, rng.choice(plot.start))]
    steps = plot.steps[:-1] + ((ENDINGS,) if rng.random() < 0.25 else plot.steps[-1:])
    lines += [cast.tell(choice) for step in steps if (choice := rng.choice(step))]
    return lines


def story(world: World, rng: Random) -> str | None:
    """A short story; None if its hero and its opening are held out."""
    plot = PLOTS[rng.choice(tuple(PLOTS))]
    cast, opening = cast_of(world, rng, plot.animals), rng.choice(OPENINGS)
    return None if held_out("story", cast["key"], opening) else " ".join(_tell(cast, plot, opening))


def _trouble(cast: Cast, opening: str, grade: str) -> str:
    """Somebody does something, and it goes wrong as badly as ``grade`` says."""
    rng, trouble = cast.rng, cast.rng.choice(TROUBLES)
    lines = [introduction(cast, opening, f"was {trouble.doing}")]
    lines.append(cast.tell(rng.choice(BETWEEN)))
    return " ".join((*lines, cast.tell(rng.choice(getattr(trouble, grade)))))


def mishap(world: World, rng: Random) -> str | None:
    """A story in which somebody exclaims: a small mishap makes a mild word, a disaster a mild swear word."""
    cast, opening, grade = cast_of(world, rng, animals=False), rng.choice(RECENT), rng.choice(tuple(EXCLAMATIONS))
    if held_out("story", cast["key"], opening):
        return None
    usual, *others = EXCLAMATIONS[grade]
    word, voice = rng.choice((usual, rng.choice(others))), rng.choice(("said", rng.choice(VOICES[grade])))
    beginning = _trouble(cast, opening, grade)
    cry = cast.tell(f"{{He}} {voice}: {word}!" if rng.random() < 0.7 else f'"{word}!" {{he}} {voice}.')
    return f"{beginning} {cry} {cast.tell(rng.choice(MOODS[grade]))}"


def _untold(world: World, rng: Random, animals: bool, openings: Step = OPENINGS) -> tuple[Cast, str]:
    """A hero and an opening that no story of the corpus brings together."""
    while True:
        cast, opening = cast_of(world, rng, animals), rng.choice(openings)
        if held_out("story", cast["key"], opening):
            return cast, opening


def story_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Beginnings of stories that were never told, to be continued freely; there is no single right answer."""
    probes = []
    for _ in range(n):
        plot = PLOTS[rng.choice(tuple(PLOTS))]
        cast, opening = _untold(world, rng, plot.animals)
        lines = _tell(cast, plot, opening)
        probes.append(Probe(" ".join(lines[: rng.choice((1, 2))]), "", group="story"))
    return probes


def mishap_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Untold mishaps up to the exclamation, graded: does a disaster bring the stronger word?"""
    firsts = {grade: words[0].split()[0] for grade, words in EXCLAMATIONS.items()}
    grades, probes = tuple(EXCLAMATIONS), []
    for number in range(n):
        grade = grades[number % 3]
        cast, opening = _untold(world, rng, animals=False, openings=RECENT)
        prompt = f"{_trouble(cast, opening, grade)} {cast['He']} said:"
        probes.append(Probe(prompt, firsts[grade], firsts["mild" if grade == "strong" else "strong"], group=grade))
    return probes


INGREDIENTS: tuple[Ingredient, ...] = (story, mishap)
