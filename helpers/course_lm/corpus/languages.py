"""The other languages of the corpus: French, German and Chinese, next to English, next to German or alone.

French and Chinese never stand in one document. What links the two in the model is therefore a third language (or the
meaning behind the words), because no text ever puts them side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from helpers.course_lm.corpus.base import Ingredient, Probe, an, chat, sentence
from helpers.course_lm.facts import fact, relations, with_the
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import Row, World


@dataclass(frozen=True)
class Language:
    """A language: its column in the tables, its name in English, its own name for itself."""

    code: str
    name: str
    label: str


ENGLISH = Language("en", "English", "English")
FRENCH = Language("fr", "French", "Français")
GERMAN = Language("de", "German", "Deutsch")
CHINESE = Language("zh", "Chinese", "中文")
FOREIGN = (FRENCH, GERMAN, CHINESE)
FOREIGN_WEIGHTS = (43, 14, 43)
LANGUAGES = {language.code: language for language in (ENGLISH, *FOREIGN)}
INDEX = {code: number for number, code in enumerate(LANGUAGES)}  # the place of a language in rows of four

# ---------------------------------------------------------------------------------------------------------- words


def _words(text: str) -> frozenset[str]:
    """The words of a text, to look others up in."""
    return frozenset(text.split())


# English, French, German, Chinese: everyday words that have no plural or are no nouns.
_EVERYDAY = """
water eau Wasser 水 / milk lait Milch 牛奶 / bread pain Brot 麵包 / snow neige Schnee 雪 / sky ciel Himmel 天空
grass herbe Gras 草 / blood sang Blut 血 / salt sel Salz 鹽 / sugar sucre Zucker 糖 / gold or Gold 黃金
fire feu Feuer 火 / sea mer Meer 海 / rain pluie Regen 雨 / wind vent Wind 風 / fish poisson Fisch 魚
paper papier Papier 紙 / meat viande Fleisch 肉 / rice riz Reis 米飯 / music musique Musik 音樂 / money argent Geld 錢
time temps Zeit 時間 / name nom Name 名字 / word mot Wort 詞 / night nuit Nacht 夜晚 / morning matin Morgen 早上
winter hiver Winter 冬天 / summer été Sommer 夏天 / year année Jahr 年 / week semaine Woche 星期 / world monde Welt 世界
two deux zwei 二 / three trois drei 三 / four quatre vier 四 / five cinq fünf 五 / six six sechs 六 / seven sept sieben 七
eight huit acht 八 / nine neuf neun 九 / ten dix zehn 十 / red rouge rot 紅色 / green vert grün 綠色 / blue bleu blau 藍色
white blanc weiß 白色 / black noir schwarz 黑色 / yellow jaune gelb 黃色 / grey gris grau 灰色 / brown brun braun 棕色
"""
EVERYDAY: list[Row] = [
    dict(zip(LANGUAGES, entry.split(), strict=True)) for line in _EVERYDAY.strip().splitlines() for entry in line.split(" / ")
]

# The gender of the nouns: French nouns are masculine and German nouns are masculine unless they stand here.
FRENCH_FEMININE = _words(
    """
    fleur maison voiture pomme main table porte fille femme rivière montagne étoile lune banane vache chaise clé fenêtre tête
    chaussure chemise rue ville école église île forêt rose orange tomate patate carotte cuillère fourchette assiette tasse
    bouteille lettre image lampe horloge caméra balle poupée reine sœur mère souris grenouille abeille araignée jambe bouche
    oreille dent feuille pierre plage colline vallée robe jupe écharpe chaussette botte bague boîte chambre cuisine tour gare
    bibliothèque usine ferme route fusée poire cerise fraise pêche prune citrouille soupe salade saucisse nouille bière scie
    corde échelle aiguille pelle bougie couverture serviette brosse étagère armoire guitare flûte cloche montre couronne pièce
    carte leçon radio pile machine roue tente marmite poêle tante infirmière princesse chèvre girafe oie baleine tortue fourmi
    graine branche racine vague tempête planète poche ceinture veste épée eau herbe neige mer pluie viande musique nuit année
    semaine
    """
)
GERMAN_FEMININE = _words(
    """
    Blume Katze Hand Wolke Tür Frau Sonne Banane Kuh Straße Stadt Schule Kirche Brücke Insel Rose Orange Zitrone Tomate
    Kartoffel Karotte Gabel Tasse Flasche Lampe Uhr Kamera Puppe Königin Schwester Mutter Maus Ente Schlange Biene Spinne Nase
    Socke Kiste Tasche Wand Küche Bibliothek Fabrik Rakete Birne Traube Kirsche Erdbeere Pflaume Melone Ananas Kokosnuss Zwiebel
    Gurke Bohne Erbse Suppe Wurst Nudel Säge Leiter Nadel Schaufel Kerze Decke Bürste Bank Gitarre Geige Trommel Flöte Glocke
    Armbanduhr Krone Münze Landkarte Zeitung Lektion Fahrkarte Fahne Batterie Maschine Pfanne Schüssel Tante Krankenschwester
    Prinzessin Ziege Giraffe Eule Gans Schildkröte Ameise Schnecke Krähe Wurzel Wüste Welle Jackentasche Jacke Briefmarke Milch
    Musik Zeit Nacht Woche Welt
    """
)
GERMAN_NEUTER = _words(
    """
    Buch Haus Auto Kind Pferd Mädchen Bett Fenster Schiff Auge Herz Ei Hemd Flugzeug Fahrrad Messer Bild Telefon Kaninchen
    Schwein Huhn Bein Ohr Blatt Feld Tal Kleid Dach Zimmer Schloss Krankenhaus Hotel Museum Dorf Boot Sandwich Bier Seil Kissen
    Handtuch Sofa Regal Klavier Wörterbuch Heft Geschenk Spielzeug Spiel Radio Rad Zelt Glas Baby Kamel Zebra Krokodil
    Eichhörnchen Insekt Schwert Wasser Brot Gras Blut Salz Gold Feuer Meer Papier Fleisch Geld Wort Jahr
    """
)
ASPIRATED = frozenset(("hibou", "haricot"))  # French nouns with h that keep "le"
GERMAN_WEAK = {  # masculine nouns that take an ending as an object
    **{noun: noun + "n" for noun in ("Junge", "Löwe", "Affe", "Nachbar", "Bauer", "Matrose")},
    **{noun: noun + "en" for noun in ("Student", "Elefant", "Bär", "Soldat", "Pilot", "Prinz", "Planet")},
}
# Chinese counts with a word for the kind of thing; 個 where nothing is written here.
_MEASURES = {
    "本": "書 字典 筆記本",
    "朵": "花 雲 玫瑰",
    "隻": "手臂 耳朵 animal 鞋子 手套 襪子 靴子 手 腳 眼睛 手錶",
    "匹": "馬 斑馬 駱駝",
    "頭": "牛 豬 大象",
    "條": "腿 地毯 蛇 河 街道 路 圍巾 裙子 腰帶 繩子 毛巾 毯子",
    "棵": "樹 高麗菜",
    "輛": "汽車 公車 腳踏車 卡車",
    "列": "火車",
    "架": "飛機 相機 鋼琴",
    "艘": "船 小船",
    "座": "山 橋 島 塔 城堡 教堂 花園 公園 森林 村莊 城市 火山 山丘 博物館 圖書館 工廠",
    "間": "房子 商店 學校 醫院 旅館 房間 廚房",
    "把": "鑰匙 椅子 刀子 湯匙 叉子 錘子 鋸子 鏟子 掃帚 雨傘 小提琴 吉他 劍",
    "張": "桌子 床 圖片 地圖 票 書桌 長椅 沙發 郵票",
    "件": "襯衫 大衣 洋裝 夾克",
    "頂": "帽子 皇冠 帳篷",
    "扇": "門 窗戶",
    "封": "信",
    "枝": "筆 鉛筆 蠟燭",
    "位": "老師 醫生 國王 女王 朋友 客人 護士 歌手 畫家 作家 律師 法官 司機 飛行員 農夫 麵包師 廚師 王子 公主 藝術家 科學家 老闆",
    "顆": "星星 蛋 鈕扣 球 種子 牙齒 櫻桃 草莓 葡萄 石頭 豆子 豌豆 心 行星",
    "杯": "drink",
    "碗": "湯 麵條",
    "塊": "乳酪 蛋糕 餅乾",
    "根": "香蕉 胡蘿蔔 釘子 針 香腸 樹枝 黃瓜",
    "面": "牆 鏡子 旗子 鼓",
    "台": "電腦 收音機 機器 拖拉機",
    "片": "葉子 沙漠 海灘 田野",
    "枚": "硬幣 戒指 火箭",
    "份": "禮物 報紙 沙拉 三明治",
    "盞": "燈",
    "部": "電話",
}
MEASURES = {word: measure for measure, words in _MEASURES.items() for word in words.split()}

# category: English, French, German, Chinese
CATEGORIES = {
    "animal": ("an animal", "un animal", "ein Tier", "動物"),
    "fruit": ("a fruit", "un fruit", "eine Frucht", "水果"),
    "vegetable": ("a vegetable", "un légume", "ein Gemüse", "蔬菜"),
    "tool": ("a tool", "un outil", "ein Werkzeug", "工具"),
    "furniture": ("a piece of furniture", "un meuble", "ein Möbelstück", "家具"),
    "vehicle": ("a vehicle", "un véhicule", "ein Fahrzeug", "交通工具"),
    "drink": ("a drink", "une boisson", "ein Getränk", "飲料"),
    "instrument": ("an instrument", "un instrument", "ein Instrument", "樂器"),
    "building": ("a building", "un bâtiment", "ein Gebäude", "建築物"),
    "clothing": ("a piece of clothing", "un vêtement", "ein Kleidungsstück", "衣服"),
}
# Nouns that are no good examples of their category.
PARTS = _words("door window bridge wall roof room kitchen station wheel button pocket bell")

# English colour: French (masculine, feminine), German, Chinese
COLOURS = {
    "red": ("rouge", "rouge", "rot", "紅色"),
    "green": ("vert", "verte", "grün", "綠色"),
    "blue": ("bleu", "bleue", "blau", "藍色"),
    "white": ("blanc", "blanche", "weiß", "白色"),
    "black": ("noir", "noire", "schwarz", "黑色"),
    "yellow": ("jaune", "jaune", "gelb", "黃色"),
    "grey": ("gris", "grise", "grau", "灰色"),
    "brown": ("brun", "brune", "braun", "棕色"),
    "pink": ("rose", "rose", "rosa", "粉紅色"),
    "orange": ("orange", "orange", "orange", "橘色"),
    "purple": ("violet", "violette", "lila", "紫色"),
    "gold": ("doré", "dorée", "golden", "金色"),
}
# Things without a plural whose colour everyone knows.
COLOURED = {"grass": "green", "snow": "white", "sky": "blue", "blood": "red", "milk": "white", "salt": "white", "sugar": "white"}

# First names in English, French, German and Chinese; then whether she is a woman.
NAMES = (
    ("Mary", "Marie", "Maria", "瑪麗", True),
    ("Peter", "Pierre", "Peter", "彼得", False),
    ("Paul", "Paul", "Paul", "保羅", False),
    ("Anna", "Anna", "Anna", "安娜", True),
    ("Sophie", "Sophie", "Sophie", "蘇菲", True),
    ("Lucas", "Lucas", "Lukas", "盧卡斯", False),
    ("Julia", "Julie", "Julia", "茱莉亞", True),
    ("Thomas", "Thomas", "Thomas", "湯姆", False),
    ("Martin", "Martin", "Martin", "馬丁", False),
    ("Laura", "Laura", "Laura", "蘿拉", True),
)
PRONOUNS = {True: ("she", "elle", "sie", "她"), False: ("he", "il", "er", "他")}
GERMAN_ARTICLES = {  # a, the, a and the as objects, it
    "m": ("ein", "der", "einen", "den", "er"),
    "f": ("eine", "die", "eine", "die", "sie"),
    "n": ("ein", "das", "ein", "das", "es"),
}

# English, French (masculine, feminine), German, Chinese
QUALITIES = (
    ("small", "petit", "petite", "klein", "小"),
    ("big", "grand", "grande", "groß", "大"),
    ("beautiful", "beau", "belle", "schön", "美麗"),
    ("strange", "étrange", "étrange", "seltsam", "奇怪"),
    ("cute", "mignon", "mignonne", "niedlich", "可愛"),
)
SMALL_PLACES = (
    ("on the table", "sur la table", "auf dem Tisch", "在桌子上"),
    ("in the box", "dans la boîte", "in der Kiste", "在盒子裡"),
    ("under the bed", "sous le lit", "unter dem Bett", "在床下"),
    ("in the kitchen", "dans la cuisine", "in der Küche", "在廚房裡"),
    ("next to the lamp", "à côté de la lampe", "neben der Lampe", "在燈旁邊"),
    ("in the bag", "dans le sac", "in der Tasche", "在袋子裡"),
    ("on the chair", "sur la chaise", "auf dem Stuhl", "在椅子上"),
    ("in the car", "dans la voiture", "im Auto", "在汽車裡"),
)
OPEN_PLACES = (
    ("in front of the house", "devant la maison", "vor dem Haus", "在房子前面"),
    ("behind the house", "derrière la maison", "hinter dem Haus", "在房子後面"),
    ("in the street", "dans la rue", "auf der Straße", "在街道上"),
    ("near the school", "près de l'école", "neben der Schule", "在學校旁邊"),
    ("in the garden", "dans le jardin", "im Garten", "在花園裡"),
    ("in the village", "dans le village", "im Dorf", "在村莊裡"),
    ("near the bridge", "près du pont", "neben der Brücke", "在橋旁邊"),
    ("in the park", "dans le parc", "im Park", "在公園裡"),
)
SMALL = _words("clothing toy fruit food vegetable tool kitchen school jewel money device")
MOVING = _words("animal person vehicle")
# Nouns that stand in no story: there is only one of them, or nobody counts them.
NO_STORY = _words("sun moon wave storm tea coffee juice beer wine lesson insect")
SMALL_TOO = _words("flower rose stone leaf seed candle umbrella mirror")
FIXED = _words("oven engine screen machine ladder pocket ship boat plane rocket train wheel whale shark dolphin")

# ------------------------------------------------------------------------------------------------------- phrases
# The same sentence in English, French, German and Chinese. {N} is a first name and {s} its pronoun; {a} and {the} are
# the noun with its article, {o} and {d} the same as objects; {it} is the noun's pronoun, {adj} a quality, {at} a place.
# A capital letter in a slot's name makes a capital: {A}, {The}, {S}, {It}, {At}.

Phrase = tuple[str, str, str, str]
OPENINGS: dict[str, tuple[Phrase, ...]] = {
    "small": (
        ("{N} has {a}.", "{N} a {a}.", "{N} hat {o}.", "{N}有{a}。"),
        ("{N} buys {a}.", "{N} achète {a}.", "{N} kauft {o}.", "{N}買了{a}。"),
        ("{N} finds {a} in the house.", "{N} trouve {a} dans la maison.", "{N} findet {o} im Haus.", "{N}在房子裡找到{a}。"),
        ("Today {N} brings {a}.", "Aujourd'hui, {N} apporte {a}.", "Heute bringt {N} {o}.", "今天{N}帶來{a}。"),
        ("{N} wants {a}.", "{N} veut {a}.", "{N} will {o}.", "{N}想要{a}。"),
        ("There is {a} {at}.", "Il y a {a} {at}.", "{At} ist {a}.", "{at}有{a}。"),
        ("{N} is looking for {a}.", "{N} cherche {a}.", "{N} sucht {o}.", "{N}在找{a}。"),
        ("{N} shows a friend {a}.", "{N} montre {a} à un ami.", "{N} zeigt einem Freund {o}.", "{N}給朋友看{a}。"),
        ("{N} sees {a} in the shop.", "{N} voit {a} dans le magasin.", "{N} sieht {o} im Laden.", "{N}在商店裡看到{a}。"),
    ),
    "moving": (
        ("{N} sees {a}.", "{N} voit {a}.", "{N} sieht {o}.", "{N}看到{a}。"),
        ("There is {a} {at}.", "Il y a {a} {at}.", "{At} ist {a}.", "{at}有{a}。"),
        ("{N} draws {a}.", "{N} dessine {a}.", "{N} zeichnet {o}.", "{N}畫了{a}。"),
        ("In the morning, {N} sees {a}.", "Le matin, {N} voit {a}.", "Am Morgen sieht {N} {o}.", "早上{N}看到{a}。"),
        ("{N} finds {a} {at}.", "{N} trouve {a} {at}.", "{N} findet {o} {at}.", "{N}{at}找到{a}。"),
        ("{N} is waiting for {a}.", "{N} attend {a}.", "{N} erwartet {o}.", "{N}在等{a}。"),
    ),
    "fixed": (
        ("{N} sees {a}.", "{N} voit {a}.", "{N} sieht {o}.", "{N}看到{a}。"),
        ("{N} draws {a}.", "{N} dessine {a}.", "{N} zeichnet {o}.", "{N}畫了{a}。"),
        ("Here is {a}.", "Voici {a}.", "Hier ist {a}.", "這裡有{a}。"),
        ("{N} paints {a}.", "{N} peint {a}.", "{N} malt {o}.", "{N}在畫{a}。"),
        ("In the picture there is {a}.", "Sur l'image, il y a {a}.", "Auf dem Bild ist {a}.", "圖片裡有{a}。"),
    ),
}
MIDDLES: dict[str, tuple[Phrase, ...]] = {
    "any": (
        ("{The} is {adj}.", "{The} est {adj}.", "{The} ist {adj}.", "{the}很{adj}。"),
        ("{The} is very {adj}.", "{The} est très {adj}.", "{The} ist sehr {adj}.", "{the}非常{adj}。"),
        ("{The} is not {adj}.", "{The} n'est pas {adj}.", "{The} ist nicht {adj}.", "{the}不{adj}。"),
        ("{S} looks at {the}.", "{S} regarde {the}.", "{S} betrachtet {d}.", "{s}看著{the}。"),
        ("{S} likes {the}.", "{S} aime {the}.", "{S} mag {d}.", "{s}喜歡{the}。"),
    ),
    "small": (
        ("{The} is {at}.", "{The} est {at}.", "{The} ist {at}.", "{the}{at}。"),
        ("{S} puts {the} in the bag.", "{S} met {the} dans le sac.", "{S} legt {d} in die Tasche.", "{s}把{the}放進袋子裡。"),
        ("{S} takes {the} home.", "{S} apporte {the} à la maison.", "{S} bringt {d} nach Hause.", "{s}把{the}帶回家。"),
        ("{S} gives {the} to a friend.", "{S} donne {the} à un ami.", "{S} gibt {d} einem Freund.", "{s}把{the}送給朋友。"),
    ),
    "moving": (
        ("{The} is {at}.", "{The} est {at}.", "{The} ist {at}.", "{the}{at}。"),
        ("{S} follows {the}.", "{S} suit {the}.", "{S} verfolgt {d}.", "{s}跟著{the}。"),
    ),
    "fixed": (("{S} knows {the} well.", "{S} connaît bien {the}.", "{S} kennt {d} gut.", "{s}很熟悉{the}。"),),
}
ENDINGS: tuple[Phrase, ...] = (
    ("{S} smiles.", "{S} sourit.", "{S} lächelt.", "{s}笑了。"),
    ("{S} goes home.", "{S} rentre à la maison.", "{S} geht nach Hause.", "{s}回家了。"),
    ("Then {s} sleeps.", "Ensuite, {s} dort.", "Dann schläft {s}.", "然後{s}睡覺。"),
    ("What a day!", "Quelle journée !", "Was für ein Tag!", "真是美好的一天！"),
    ("{S} tells a friend about it.", "{S} en parle à un ami.", "{S} erzählt es einem Freund.", "{s}告訴朋友這件事。"),
    ("Everyone laughs.", "Tout le monde rit.", "Alle lachen.", "大家都笑了。"),
    ("The sun is shining.", "Le soleil brille.", "Die Sonne scheint.", "太陽出來了。"),
    ("It is raining.", "Il pleut.", "Es regnet.", "下雨了。"),
    ("{S} sings a song.", "{S} chante une chanson.", "{S} singt ein Lied.", "{s}唱一首歌。"),
)
EXCHANGES: dict[str, tuple[tuple[Phrase, Phrase], ...]] = {
    "any": (
        (
            ("What is this?", "Qu'est-ce que c'est ?", "Was ist das?", "這是什麼？"),
            ("This is {a}.", "C'est {a}.", "Das ist {a}.", "這是{a}。"),
        ),
        (
            ("Do you see {the}?", "Est-ce que tu vois {the} ?", "Siehst du {d}?", "你看到{the}了嗎？"),
            ("Yes, I see {the}.", "Oui, je vois {the}.", "Ja, ich sehe {d}.", "是的，我看到{the}了。"),
        ),
        (
            ("Is that {a}?", "Est-ce que c'est {a} ?", "Ist das {a}?", "那是{a}嗎？"),
            ("Yes, it is {a}.", "Oui, c'est {a}.", "Ja, das ist {a}.", "是的，那是{a}。"),
        ),
        (
            ("What do you see?", "Que vois-tu ?", "Was siehst du?", "你看到什麼？"),
            ("I see {a}.", "Je vois {a}.", "Ich sehe {o}.", "我看到{a}。"),
        ),
        (
            ("Is {the} {adj}?", "Est-ce que {the} est {adj} ?", "Ist {the} {adj}?", "{the}很{adj}嗎？"),
            ("Yes, {the} is very {adj}.", "Oui, {the} est très {adj}.", "Ja, {the} ist sehr {adj}.", "是的，{the}非常{adj}。"),
        ),
    ),
    "small": (
        (
            ("Where is {the}?", "Où est {the} ?", "Wo ist {the}?", "{the}在哪裡？"),
            ("{It} is {at}.", "{It} est {at}.", "{It} ist {at}.", "{it}{at}。"),
        ),
        (
            ("Do you have {a}?", "Est-ce que tu as {a} ?", "Hast du {o}?", "你有{a}嗎？"),
            ("Yes, I have {a}.", "Oui, j'ai {a}.", "Ja, ich habe {o}.", "有，我有{a}。"),
        ),
        (
            ("What is {at}?", "Qu'est-ce qu'il y a {at} ?", "Was ist {at}?", "{at}有什麼？"),
            ("There is {a} {at}.", "Il y a {a} {at}.", "{At} ist {a}.", "{at}有{a}。"),
        ),
        (
            ("What do you want?", "Que veux-tu ?", "Was willst du?", "你想要什麼？"),
            ("I want {a}.", "Je veux {a}.", "Ich will {o}.", "我想要{a}。"),
        ),
    ),
    "moving": (
        (
            ("Where is {the}?", "Où est {the} ?", "Wo ist {the}?", "{the}在哪裡？"),
            ("{The} is {at}.", "{The} est {at}.", "{The} ist {at}.", "{the}{at}。"),
        ),
    ),
    "fixed": (
        (
            ("Do you know {the}?", "Est-ce que tu connais {the} ?", "Kennst du {d}?", "你知道{the}嗎？"),
            ("No, I do not know {the}.", "Non, je ne connais pas {the}.", "Nein, ich kenne {d} nicht.", "不，我不知道{the}。"),
        ),
    ),
}
COLOUR_PHRASE: Phrase = ("{The} is {col}.", "{The} est {col}.", "{The} ist {col}.", "{the}是{col}的。")
KIND_PHRASE: Phrase = ("{A} is {kind}.", "{A} est {kind}.", "{A} ist {kind}.", "{n}是一種{kind}。")

# English country and capital, French "de" + country and capital, German country and capital, Chinese country and capital
_CAPITALS = """
France,Paris,de la France,Paris,Frankreich,Paris,法國,巴黎
Germany,Berlin,de l'Allemagne,Berlin,Deutschland,Berlin,德國,柏林
Italy,Rome,de l'Italie,Rome,Italien,Rom,義大利,羅馬
Spain,Madrid,de l'Espagne,Madrid,Spanien,Madrid,西班牙,馬德里
Japan,Tokyo,du Japon,Tokyo,Japan,Tokio,日本,東京
China,Beijing,de la Chine,Pékin,China,Peking,中國,北京
Russia,Moscow,de la Russie,Moscou,Russland,Moskau,俄羅斯,莫斯科
Poland,Warsaw,de la Pologne,Varsovie,Polen,Warschau,波蘭,華沙
Austria,Vienna,de l'Autriche,Vienne,Österreich,Wien,奧地利,維也納
Greece,Athens,de la Grèce,Athènes,Griechenland,Athen,希臘,雅典
Portugal,Lisbon,du Portugal,Lisbonne,Portugal,Lissabon,葡萄牙,里斯本
Egypt,Cairo,de l'Égypte,Le Caire,Ägypten,Kairo,埃及,開羅
Belgium,Brussels,de la Belgique,Bruxelles,Belgien,Brüssel,比利時,布魯塞爾
Denmark,Copenhagen,du Danemark,Copenhague,Dänemark,Kopenhagen,丹麥,哥本哈根
Sweden,Stockholm,de la Suède,Stockholm,Schweden,Stockholm,瑞典,斯德哥爾摩
Norway,Oslo,de la Norvège,Oslo,Norwegen,Oslo,挪威,奧斯陸
Finland,Helsinki,de la Finlande,Helsinki,Finnland,Helsinki,芬蘭,赫爾辛基
Ireland,Dublin,de l'Irlande,Dublin,Irland,Dublin,愛爾蘭,都柏林
Hungary,Budapest,de la Hongrie,Budapest,Ungarn,Budapest,匈牙利,布達佩斯
South Korea,Seoul,de la Corée du Sud,Séoul,Südkorea,Seoul,南韓,首爾
Thailand,Bangkok,de la Thaïlande,Bangkok,Thailand,Bangkok,泰國,曼谷
Cuba,Havana,de Cuba,La Havane,Kuba,Havanna,古巴,哈瓦那
"""
CAPITALS = [tuple(line.split(",")) for line in _CAPITALS.strip().splitlines()]

# -------------------------------------------------------------------------------------------- words in a sentence


def noun_slots(row: Row, code: str) -> dict[str, str]:
    """The noun of ``row`` with its articles in one language: {a}, {the}, the objects {o} and {d}, {it} and bare {n}."""
    return {"en": english_noun, "fr": french_noun, "de": german_noun, "zh": chinese_noun}[code](row)


def english_noun(row: Row) -> dict[str, str]:
    """``a dog``, ``the dog``; mass nouns such as *grass* are only used with *the*."""
    noun = row.get("singular") or row["en"]
    return {"n": noun, "a": an(noun), "o": an(noun), "the": f"the {noun}", "d": f"the {noun}", "it": "it"}


def french_noun(row: Row) -> dict[str, str]:
    """``un chien``, ``le chien``; also ``du chien`` for *of the* and ``qu'un chien``."""
    noun = row["fr"]
    feminine, elided = noun in FRENCH_FEMININE, noun[0] in "aeiouhéèêâîôœ" and noun not in ASPIRATED
    a = ("une " if feminine else "un ") + noun
    the = "l'" + noun if elided else ("la " if feminine else "le ") + noun
    of = f"de {the}" if elided or feminine else f"du {noun}"
    return {"n": noun, "a": a, "o": a, "the": the, "d": the, "it": "elle" if feminine else "il", "of": of}


def german_noun(row: Row) -> dict[str, str]:
    """``ein Hund``, ``der Hund``, as objects ``einen Hund``, ``den Hund``."""
    noun = row["de"]
    a, the, o, d, it = GERMAN_ARTICLES["f" if noun in GERMAN_FEMININE else "n" if noun in GERMAN_NEUTER else "m"]
    weak = GERMAN_WEAK.get(noun, noun)
    return {"n": noun, "a": f"{a} {noun}", "the": f"{the} {noun}", "o": f"{o} {weak}", "d": f"{d} {weak}", "it": it}


def chinese_noun(row: Row) -> dict[str, str]:
    """``一隻狗`` and ``這隻狗``, each with the noun's measure word."""
    noun = row["zh"]
    measure = MEASURES.get(noun) or MEASURES.get(row.get("category", ""), "個")
    a, the = f"一{measure}{noun}", f"這{measure}{noun}"
    return {"n": noun, "a": a, "o": a, "the": the, "d": the, "it": "它"}


def colour_of(row: Row) -> str:
    """The typical colour of a noun's thing, or an empty text."""
    return row.get("colour") or COLOURED.get(row.get("en", ""), "")


def colour_word(colour: str, code: str, feminine: bool = False) -> str:
    """A colour's name in one language; French has a feminine form."""
    masculine, french_feminine, german, chinese = COLOURS[colour]
    return {"en": colour, "fr": french_feminine if feminine else masculine, "de": german, "zh": chinese}[code]


def draw_language(rng: Random) -> Language:
    """Draws the foreign language of a document."""
    return rng.choices(FOREIGN, FOREIGN_WEIGHTS)[0]


# ---------------------------------------------------------------------------------------------- lists of word pairs


def draw_word(world: World, rng: Random, code: str) -> tuple[str, str, Row]:
    """Draws an English word, its translation and its row: mostly a noun, else an adjective, an everyday word or a country."""
    while True:
        kind = rng.random()
        if kind < 0.7:
            row, english = world.pick_common(rng, "nouns"), "singular"
        elif kind < 0.82:
            row, english = world.pick_common(rng, "adjectives"), "word"
        elif kind < 0.93:
            row, english = rng.choice(EVERYDAY), "en"
        else:
            row, english = world.pick(rng, "countries"), "name"
        if row[code]:
            return row[english], row[code], row


def in_lists(source: Language, target: Language, word: str) -> bool:
    """May a list of the training text show the translation of ``word`` (a word of the source language)?"""
    return not held_out("list_pair", f"{source.code}_{target.code}", word)


def pair_line(source: Language, target: Language, word: str, answer: str) -> str:
    """One line of a list of translations, each language under its own name."""
    return f"{source.label}: {word} - {target.label}: {answer}".rstrip()


def translation(world: World, rng: Random) -> str | None:
    """One to five word pairs from English to another language or back."""
    foreign, back = draw_language(rng), rng.random() < 0.5
    source, target = (foreign, ENGLISH) if back else (ENGLISH, foreign)
    shown: dict[str, str] = {}
    for _ in range(rng.choice((1, 2, 3, 4, 5, 5))):
        english, other, _row = draw_word(world, rng, foreign.code)
        word, answer = (other, english) if back else (english, other)
        if in_lists(source, target, word) and len(word) + len(answer) <= 24:
            shown.setdefault(word, answer)
    return "\n".join(pair_line(source, target, *pair) for pair in shown.items()) if shown else None


def german_pairs(world: World, rng: Random) -> str | None:
    """One to five word pairs from German to French or Chinese, or back: the language after the dash is not always English."""
    other, back = rng.choice((FRENCH, CHINESE)), rng.random() < 0.5
    source, target = (other, GERMAN) if back else (GERMAN, other)
    shown: dict[str, str] = {}
    for _ in range(rng.choice((1, 2, 3, 4, 5, 5))):
        row = world.pick_common(rng, "nouns")
        if in_lists(source, target, row[source.code]) and row[source.code] and row[target.code]:
            shown.setdefault(row[source.code], row[target.code])
    return "\n".join(pair_line(source, target, *pair) for pair in shown.items()) if shown else None


# ---------------------------------------------------------------------------------------------- words told in prose

WORD_SHAPES = (  # {e}: the English word, {f}: the foreign word, {L}: the language
    "The {L} word for {e} is {f}.",
    "{f} means {e} in {L}.",
    "In {L}, {e} is {f}.",
    "In {L}, {e} is written {f}.",
    "{f} is the {L} word for {e}.",
    "The {L} word {f} means {e}.",
    "How do you say {e} in {L}? You say {f}.",
    "How do you say {e} in {L}? {f}.",
    "What does {f} mean? It is {L} for {e}.",
    "What is {e} in {L}? It is {f}.",
    "People who speak {L} say {f}; in English we say {e}.",
    "If you want to say {e} in {L}, say {f}.",
    "To say {e} in {L}, we use the word {f}.",
    "Our {L} teacher says {f} when she means {e}.",
    "I wrote {f} in my notebook. It is {L} for {e}.",
    "The word {f} is {L}. In English it is {e}.",
    "Translate {e} into {L}: {f}.",
    "Translate {f} into English: {e}.",
    "The word {e} is translated into {L} as {f}.",
    "In the {L} dictionary, {f} stands next to {e}.",
    "English {e} and {L} {f} mean the same.",
    "The English word {e} becomes {f} in {L}.",
    "He asked for the {L} word for {e}, and she said {f}.",
    "When they say {f} in {L}, they mean {e}.",
    "On the {L} card is {f}, on the English card is {e}.",
    "{L} {f} is English {e}.",
)
NOUN_SHAPES = (  # {ae}: the English noun with its article
    "In {L}, {ae} is {f}.",
    "In {L}, {ae} is called {f}.",
    "People who speak {L} call {ae} {f}.",
    "When you see {ae}, say {f} in {L}.",
    "The picture shows {ae}; the {L} name under it is {f}.",
    "What is {ae} called in {L}? It is called {f}.",
    "Point at {ae} and say it in {L}: {f}.",
    "She drew {ae} and wrote the {L} word {f} next to it.",
)
WORD_OPENERS = (
    "", "", "", "", "",
    "Let us learn {L}.", "Here is a new word.", "Word of the day:", "{L} lesson:", "From my {L} notebook:", "Remember this.",
)  # fmt: skip
WORD_TAILS = (
    "", "", "", "",
    "Say it again: {f}.", "Now you know one more word.", "It is easy to remember.", "So {f} is {e}.", "Try to remember {f}.",
)  # fmt: skip


def word_sentence(word: tuple[str, str, Row], language: Language, rng: Random) -> str:
    """One sentence that says what a word is in another language."""
    english, foreign, row = word
    noun = "singular" in row and row["category"] != "drink"
    shape = rng.choice(NOUN_SHAPES if noun and rng.random() < 0.35 else WORD_SHAPES)
    return sentence(shape.format(e=english, f=foreign, L=language.name, ae=an(english)))


def word_notes(row: Row) -> list[str]:
    """What else can be said in English about the thing: its category and its colour."""
    category, colour = row.get("category"), row.get("colour")
    kinds = [f"{sentence(an(row['singular']))} is {CATEGORIES[category][0]}."] if has_kind(row) and category != "drink" else []
    return kinds + ([f"The colour of {english_noun(row)['the']} is {colour}."] if colour else [])


def glosses(world: World, rng: Random) -> str | None:
    """A few words of one language, explained in English sentences."""
    language = draw_language(rng)
    words = [draw_word(world, rng, language.code) for _ in range(rng.choice((1, 2, 2, 3)))]
    parts = [rng.choice(WORD_OPENERS).format(L=language.name)]
    for word in words:
        parts.append(word_sentence(word, language, rng))
        if rng.random() < 0.2:
            parts += word_notes(word[2])[:1]
    english, foreign, _row = words[-1]
    tail = sentence(rng.choice(WORD_TAILS).format(e=english, f=foreign)) if len(words) < 3 else ""
    return " ".join(part for part in [*parts, tail] if part)


# ------------------------------------------------------------------------------------------ stories and dialogues


@dataclass(frozen=True)
class Scene:
    """What a little text is about, in all languages at once: somebody, a thing, what it is like, and where it is."""

    row: Row
    name: tuple[str, str, str, str, bool]
    quality: tuple[str, str, str, str, str]
    place: Phrase


def size_of(row: Row) -> str:
    """Is the noun's thing small enough to own, does it move about, or does it stay where it is?"""
    noun, category = row["singular"], row["category"]
    if noun in FIXED:
        return "fixed"
    return "small" if category in SMALL or noun in SMALL_TOO else "moving" if category in MOVING else "fixed"


def has_kind(row: Row) -> bool:
    """Is the noun a plain example of a category that all languages name?"""
    return row.get("category") in CATEGORIES and row["singular"] not in PARTS


def draw_scene(world: World, rng: Random) -> Scene:
    """Draws a noun that all languages have, a person, a quality and a place."""
    while True:
        row = world.pick(rng, "nouns")
        if row["singular"] not in NO_STORY and all(row[language.code] for language in FOREIGN):
            places = SMALL_PLACES if size_of(row) == "small" else OPEN_PLACES
            return Scene(row, rng.choice(NAMES), rng.choice(QUALITIES), rng.choice(places))


def slots(scene: Scene, code: str) -> dict[str, str]:
    """The fillings of a phrase's slots in one language; capital letters are added for the beginnings of sentences."""
    index = INDEX[code]
    filled = noun_slots(scene.row, code)
    feminine = filled["it"] == "elle"
    english, masculine, french_feminine, german, chinese = scene.quality
    filled["adj"] = (english, french_feminine if feminine else masculine, german, chinese)[index]
    filled |= {"N": scene.name[index], "s": PRONOUNS[scene.name[4]][index], "at": scene.place[index]}
    filled["kind"] = CATEGORIES[scene.row["category"]][index] if has_kind(scene.row) else ""
    filled["col"] = colour_word(scene.row["colour"], code, feminine) if scene.row["colour"] else ""
    return filled | {sentence(key): sentence(filled[key]) for key in ("a", "the", "s", "it", "at")}


def write(phrases: Sequence[Phrase], scene: Scene, language: Language) -> str:
    """The phrases about the scene in one language, one after the other."""
    index, filled = INDEX[language.code], slots(scene, language.code)
    return ("" if language is CHINESE else " ").join(phrase[index].format(**filled) for phrase in phrases)


def draw_story(scene: Scene, rng: Random) -> list[Phrase]:
    """Draws the phrases of a story: somebody meets the thing, something is said about it, and an end."""
    size = size_of(scene.row)
    opening = rng.choice(OPENINGS[size])
    said = [*MIDDLES["any"], *([COLOUR_PHRASE] * 2 if scene.row["colour"] else []), *([KIND_PHRASE] if has_kind(scene.row) else [])]
    done = [phrase for phrase in MIDDLES[size] if not ("{at}" in phrase[0] and mentions(opening, "at"))]
    middle = rng.choice((["said"], ["said", "done"], ["said", "done"], ["done"]))
    chosen = [rng.choice(choices) for kind, choices in (("said", said), ("done", done)) if kind in middle and choices]
    phrases = [opening, *rng.sample(chosen, len(chosen)), rng.choice(ENDINGS)]
    return phrases if mentions(opening, "n") else with_name(phrases)


def mentions(phrase: Phrase, slot: str) -> bool:
    """Has the phrase this slot, small or with a capital letter?"""
    return any("{" + form + "}" in phrase[0] for form in (slot, slot.upper(), sentence(slot)))


def with_name(phrases: list[Phrase]) -> list[Phrase]:
    """The same phrases with the person's name where the first pronoun stood."""
    first = next((at for at, phrase in enumerate(phrases) if mentions(phrase, "s")), None)
    if first is None:
        return phrases
    named = tuple(text.replace("{S}", "{N}").replace("{s}", "{N}") for text in phrases[first])
    return [*phrases[:first], named, *phrases[first + 1 :]]


def story(world: World, rng: Random) -> str | None:
    """A story of a few sentences in French, German or Chinese."""
    scene = draw_scene(world, rng)
    return write(draw_story(scene, rng), scene, draw_language(rng))


def dialogue(world: World, rng: Random) -> str | None:
    """Two people talk about a thing in French, German or Chinese."""
    scene, language = draw_scene(world, rng), draw_language(rng)
    exchanges = rng.sample([*EXCHANGES["any"], *EXCHANGES[size_of(scene.row)]], 2)
    index = INDEX[language.code]
    first, second = (name[index] for name in rng.sample(NAMES, 2))
    colon = {"fr": " : ", "de": ": ", "zh": "："}[language.code]
    before = rng.choice((("- ", "- "), (first + colon, second + colon), (first + colon, second + colon)))
    lines = [before[side] + write([phrase], scene, language) for exchange in exchanges for side, phrase in enumerate(exchange)]
    return "\n".join(lines)


BILINGUAL_SHAPES = (  # {e}: English, {f}: the other language, {L}: its English name, {l}: its own name
    "{e} In {L}: {f}",
    "{e}\n{f}",
    "English: {e}\n{l}: {f}",
    "{l}: {f}\nEnglish: {e}",
    "{e} In {L} we say: {f}",
    "{f} This means: {e}",
    "{f} In English: {e}",
    'How do you say "{e}" in {L}? "{f}"',
    'Translate into {L}: "{e}" "{f}"',
    'Translate into English: "{f}" "{e}"',
    'The {L} sentence "{f}" means "{e}"',
    'She said in {L}: "{f}" He said in English: "{e}"',
)


def bilingual(world: World, rng: Random) -> str | None:
    """English sentences and the same in one other language."""
    scene, language = draw_scene(world, rng), draw_language(rng)
    told = draw_story(scene, rng)
    told = told[: rng.choice((1, 2, 2))] if rng.random() < 0.8 else list(rng.choice(EXCHANGES["any"]))
    shape = rng.choice(BILINGUAL_SHAPES)
    return shape.format(e=write(told, scene, ENGLISH), f=write(told, scene, language), L=language.name, l=language.label)


# -------------------------------------------------------------------------------- foreign names in English sentences

NAME_SHAPES = (  # {f}: the foreign name, {e}: the English name, {L}: the language
    "{f} is {e} in {L}.",
    "{f} is the {L} name of {e}.",
    "In {L}, {e} is called {f}.",
    "In {L} books, {e} is written {f}.",
    "{f} means {e}.",
    "People who speak {L} say {f} for {e}.",
    "What is {f}? It is {e}.",
    "The {L} name of {e} is {f}.",
    "I read about {f}. In English it is {e}.",
    "On the {L} map you read {f} for {e}.",
    "{f} and {e} are the same place.",
    "What is {e} in {L}? {f}.",
    "If you look for {e} in a {L} book, look for {f}.",
    "The guide said {f}, and I understood {e}.",
    "{f} ({e})",
)
NAME_SCENES = (
    "We want to visit {f} next year.",
    "She has a picture of {f} on her wall.",
    "This book is about {f}.",
    "My friend wrote a letter from {f}.",
    "Have you ever been to {f}?",
    "There is a stamp with {f} on it.",
    "He dreams of a trip to {f}.",
    "The film begins in {f}.",
    "Our teacher told us about {f}.",
    "{f} is on the first page of the {L} book.",
)


def named_facts(row: Row, table: str, name: str, rng: Random) -> list[str]:
    """English sentences and questions that tell the facts of ``row`` under its foreign ``name``."""
    told = []
    for relation in relations().values():
        known = fact(relation, row) if relation.table == table and relation.subject == "name" else None
        if known is None:
            continue
        foreign = replace(known, subject=name)
        statements = [template for template in relation.statements if not known.held_out(template)]
        told += [foreign.tell(template) for template in rng.sample(statements, min(2, len(statements)))]
        told += [f"{foreign.ask(rng.choice(relation.questions))} {sentence(known.object)}."] if relation.questions else []
    return told


def code_switch(world: World, rng: Random) -> str | None:
    """The French, German or Chinese name of a country or a sight in English sentences that tell what it is."""
    table, language = rng.choice(("countries", "landmarks", "landmarks")), draw_language(rng)
    row = world.pick(rng, table)
    name = row[language.code]
    if not name or name == row["name"]:
        return None
    english = with_the(row["name"]) if table == "landmarks" else row["name"]
    facts = named_facts(row, table, name, rng)
    parts = rng.sample(facts, min(rng.choice((1, 1, 2)), len(facts)))
    if table == "landmarks" and rng.random() < 0.4:
        parts[:1] = [sight(row, name, rng)]
    for shapes, chance in ((NAME_SHAPES, 0.6), (NAME_SCENES, 0.3)):
        if rng.random() < chance or (shapes is NAME_SHAPES and len(parts) < 2):
            parts.insert(rng.randint(0, len(parts)), rng.choice(shapes).format(f=name, e=english, L=language.name))
    return " ".join(sentence(part) for part in parts)


def sight(row: Row, name: str, rng: Random) -> str:
    """What and where a sight is: ``金門大橋 is a bridge in San Francisco.``"""
    place = row["city"] if row["city"] and rng.random() < 0.7 else row["country"]
    shapes = ("{f} is {k} in {p}.", "{f}, {k} in {p}, is famous.", "In {p} there is {k} called {f}.", "Travellers in {p} see {f}, {k}.")
    return rng.choice(shapes).format(f=name, k=an(row["kind"]), p=place)


# ---------------------------------------------------------------------------------- questions in their own language

# Each kind of question: its shapes in English, French, German and Chinese.
QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "capital": {
        "en": ("What is the capital of {x}?", "Which city is the capital of {x}?"),
        "fr": ("Quelle est la capitale {x} ?", "Quelle ville est la capitale {x} ?"),
        "de": ("Was ist die Hauptstadt von {x}?", "Wie heißt die Hauptstadt von {x}?"),
        "zh": ("{x}的首都是哪裡？", "{x}的首都是什麼？", "哪裡是{x}的首都？"),
    },
    "opposite": {
        "en": ('What is the opposite of "{x}"?', "What is the opposite of {x}?"),
        "fr": ('Quel est le contraire de "{x}" ?', 'Quel mot est le contraire de "{x}" ?'),
        "de": ('Was ist das Gegenteil von "{x}"?', "Was ist das Gegenteil von {x}?"),
        "zh": ("「{x}」的反義詞是什麼？", "{x}的相反是什麼？"),
    },
    "colour": {
        "en": ("What is the colour of {x}?", "What colour is {x}?"),
        "fr": ("Quelle est la couleur {x} ?", "Quelle est donc la couleur {x} ?"),
        "de": ("Welche Farbe hat {x}?", "Sag mir: welche Farbe hat {x}?"),
        "zh": ("{x}是什麼顏色？", "{x}的顏色是什麼？"),
    },
    "kind": {
        "en": ("What is {x}?", "What kind of thing is {x}?"),
        "fr": ("Qu'est-ce qu'{x} ?", "Qu'est-ce que c'est, {x} ?"),
        "de": ("Was ist {x}?", "Was für ein Ding ist {x}?"),
        "zh": ("{x}是什麼？", "{x}是什麼東西？"),
    },
}
# The same as statements. The capitals of English sentences are told elsewhere.
STATEMENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "capital": {
        "en": (),
        "fr": ("La capitale {x} est {y}.", "{Y} est la capitale {x}."),
        "de": ("Die Hauptstadt von {x} ist {y}.", "{Y} ist die Hauptstadt von {x}."),
        "zh": ("{x}的首都是{y}。", "{y}是{x}的首都。"),
    },
    "opposite": {
        "en": ('The opposite of "{x}" is "{y}".', "The opposite of {x} is {y}."),
        "fr": ('Le contraire de "{x}" est "{y}".', '"{Y}" est le contraire de "{x}".'),
        "de": ('Das Gegenteil von "{x}" ist "{y}".', "Das Gegenteil von {x} ist {y}."),
        "zh": ("「{x}」的反義詞是「{y}」。", "{x}的相反是{y}。"),
    },
    "colour": {
        "en": ("The colour of {x} is {y}.",),
        "fr": ("La couleur {x} est le {y}.",),
        "de": ("{X} ist {y}.",),
        "zh": ("{x}是{y}的。", "{x}的顏色是{y}。"),
    },
    "kind": {
        "en": ("{X} is {y}.",),
        "fr": ("{X} est {y}.",),
        "de": ("{X} ist {y}.",),
        "zh": ("{x}是一種{y}。",),
    },
}
ANSWER_SHAPES = {
    "en": ("Question: {q} Answer: {y}", "Question: {q}\nAnswer: {y}", "Q: {q}\nA: {y}", "{q} {Y}."),
    "fr": ("Question : {q} Réponse : {y}", "Question : {q}\nRéponse : {y}", "Q : {q}\nR : {y}", "{q} {Y}."),
    "de": ("Frage: {q} Antwort: {y}", "Frage: {q}\nAntwort: {y}", "F: {q}\nA: {y}", "{q} {Y}."),
    "zh": ("問題：{q}答案：{y}", "問題：{q}\n答案：{y}", "問：{q}\n答：{y}", "{q}{y}。"),
}
ADJECTIVE_COLUMN = {"en": "word", "fr": "fr", "de": "de", "zh": "zh"}


def asked_capital(world: World, rng: Random, code: str) -> tuple[str, str]:
    """A country and its capital."""
    at = 2 * INDEX[code]
    return tuple(rng.choice(CAPITALS)[at : at + 2])


def asked_opposite(world: World, rng: Random, code: str) -> tuple[str, str]:
    """An adjective and its opposite, both of them words that the language has."""
    column, rows = ADJECTIVE_COLUMN[code], {row["word"]: row for row in world.rows("adjectives")}
    while True:
        row = world.pick(rng, "adjectives")
        word, opposite = row[column], rows[row["opposite"]][column]
        if word and opposite and word != opposite:
            return word, opposite


def asked_colour(world: World, rng: Random, code: str) -> tuple[str, str]:
    """A thing, as the question about its colour names it, and the colour."""
    row = rng.choice([row for row in (*world.rows("nouns"), *EVERYDAY) if colour_of(row) in COLOURS])
    filled = noun_slots(row, code)
    return filled[{"en": "the", "fr": "of", "de": "the", "zh": "n"}[code]], colour_word(colour_of(row), code)


def asked_kind(world: World, rng: Random, code: str) -> tuple[str, str]:
    """A thing and what kind of thing it is."""
    row = rng.choice([row for row in world.rows("nouns") if has_kind(row) and row["category"] != "drink"])
    return noun_slots(row, code)["n" if code == "zh" else "a"], CATEGORIES[row["category"]][INDEX[code]]


ASKED = {"capital": asked_capital, "opposite": asked_opposite, "colour": asked_colour, "kind": asked_kind}


def questions(world: World, rng: Random) -> str | None:
    """Questions and answers, or statements, in one language: English, French, German or Chinese."""
    code = rng.choices(list(LANGUAGES), (25, 30, 17, 28))[0]
    shape, style = rng.choice(ANSWER_SHAPES[code]), rng.random()
    texts: list[str] = []
    for _ in range(1 if style < 0.15 else rng.choice((2, 2, 3, 3))):
        kind = rng.choice(list(ASKED))
        x, y = ASKED[kind](world, rng, code)
        question = rng.choice(QUESTIONS[kind][code]).format(x=x)
        if style < 0.15:
            return chat(("user", question), ("assistant", sentence(y) + ("。" if code == "zh" else ".")))
        if style < 0.5 and STATEMENTS[kind][code]:
            texts.append(rng.choice(STATEMENTS[kind][code]).format(x=x, y=y, X=sentence(x), Y=sentence(y)))
        else:
            texts.append(shape.format(q=question, y=y, Y=sentence(y)))
    return "\n".join(dict.fromkeys(texts))


# ------------------------------------------------------------------------------------------------------------ probes

SHOTS = 4


def clear_nouns(world: World, source: Language, target: Language) -> list[tuple[str, str, str]]:
    """Nouns as (source word, target word, English word) that no two of the languages write alike."""
    column = {language.code: language.code for language in FOREIGN} | {"en": "singular"}
    found = []
    for row in world.common("nouns"):
        word, answer, english = row[column[source.code]], row[column[target.code]], row["singular"]
        spellings = {text.lower() for text in (word, answer, english)}
        if word and answer and len(spellings) == (2 if ENGLISH in (source, target) else 3):
            found.append((word, answer, english))
    return found


def list_probe(source: Language, target: Language, asked: tuple[str, str, str], pool: Sequence[tuple[str, str, str]], rng: Random) -> Probe:
    """Four demonstrations, then the question, open where the answer stands."""
    word, answer, english = asked
    shown = rng.sample([other for other in pool if other[0] != word and other[1] != answer], SHOTS)
    lines = [pair_line(source, target, *other[:2]) for other in shown]
    lines.append(pair_line(source, target, word, ""))
    return Probe("\n".join(lines), answer, wrong=None if ENGLISH in (source, target) else english, group=f"{source.code}-{target.code}")


def translation_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """From French to Chinese and back, a pair of languages that never meets in the corpus; ``wrong`` is the English word.

    Both halves of the way, to English and on from there, do stand in the training text's lists.
    """
    ways = [(FRENCH, CHINESE), (CHINESE, FRENCH)]
    pools = [
        [noun for noun in clear_nouns(world, source, target) if in_lists(source, ENGLISH, noun[0]) and in_lists(ENGLISH, target, noun[2])]
        for source, target in ways
    ]
    return spread(ways, pools, pools, rng, n)


def english_pair_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """From English or to English: words whose translation stands in no list of this direction, only in sentences."""
    ways = [way for foreign in FOREIGN for way in ((ENGLISH, foreign), (foreign, ENGLISH))]
    nouns = [clear_nouns(world, *way) for way in ways]
    hidden = [[noun for noun in found if not in_lists(*way, noun[0])] for way, found in zip(ways, nouns, strict=True)]
    shown = [[noun for noun in found if in_lists(*way, noun[0])] for way, found in zip(ways, nouns, strict=True)]
    return spread(ways, hidden, shown, rng, n)


def spread(ways: Sequence[tuple[Language, Language]], asked: Sequence[list], shown: Sequence[list], rng: Random, n: int) -> list[Probe]:
    """Spreads ``n`` probes evenly over the directions; no word is asked twice in a direction before all have been asked."""
    orders = [rng.sample(pool, len(pool)) for pool in asked]
    probes = []
    for number in range(n):
        turn, way = divmod(number, len(ways))
        probes.append(list_probe(*ways[way], orders[way][turn % len(orders[way])], shown[way], rng))
    return probes


INGREDIENTS: tuple[Ingredient, ...] = (translation, german_pairs, glosses, code_switch, bilingual, questions, story, dialogue)
