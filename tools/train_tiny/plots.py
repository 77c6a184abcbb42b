# ruff: noqa: E501 (one event a line, all its wordings beside each other, reads better than wrapped)
# fmt: off
"""What can happen in a story. Each plot says its events in order and notes, beside each, what can be asked about it."""

from __future__ import annotations

from collections.abc import Callable

from .stories import Teller, feeling_why
from .words import FEARS, FOODS, GAMES, PLACES, SPOTS, WEATHERS, article

_HAPPY_END = "From then on, {h} and {f} were best friends."


def _day(t: Teller) -> None:
    """One morning the hero goes to the place."""
    h = t.hero
    weather = t.rng.choice(list(WEATHERS))
    go = f"{h.name} went to the {t.place}"
    t.say(f"One {weather} day, {go}.", f"One {weather} morning, {go}.", f"One day, {go}. {WEATHERS[weather]}")
    t.ask((f"Where did {h.name} go?", f"Where did {h.name} go that day?"), f"{h.name} went to the {t.place}.")
    t.ask(f"Did {h.name} go to the {t.place}?", f"Yes, {h.name} went to the {t.place}.")
    other = t.rng.choice([p for p in PLACES if p not in (t.place, t.home)])
    t.ask(f"Did {h.name} go to the {other}?", f"No, {h.name} went to the {t.place}.")
    t.ask("What was the weather like?", f"It was {weather}.")
    t.subjects.append(f"the {t.place}")


def lost(t: Teller) -> None:
    """The thing is lost, and the friend helps to find it."""
    h, f, it = t.hero, t.friend, t.thing
    t.own_thing()
    t.meet_friend()
    t.pause()
    _day(t)
    t.say(f"{h.name} took the {it} along.", f"Of course {h.they} took the {it} too.")
    reason = t.rng.choice(("a strong wind came", f"{h.they} fell asleep", f"{h.they} began to play", f"{h.they} ran too fast"))
    t.say(f"But {reason}, and the {it} was gone.", f"Then {reason}, and soon the {it} was lost.")
    t.say(f"{h.name} looked everywhere but could not find it.", f"{h.name} looked and looked, but the {it} was not there.")
    t.say(f"{h.name} was very sad.", f"{h.name} felt sad and began to cry.", f'"Oh no! My {it} is gone," said {h.name}. {h.name} was sad.')
    feeling_why(t, h, "sad", f"{h.they} lost {h.their} {it}")
    t.ask((f"What did {h.name} lose?",), f"{h.name} lost {h.their} {t.color} {it}.")
    t.pause()
    t.say(f'{f.name} heard about it and said, "Do not worry, I will help you."', f'"I will help you look," said {f.name}.',
          f"{f.name} came to help {h.them}.")
    t.ask(f"Who helped {h.name}?", f"{f.name} helped {h.name}.")
    t.say(f"At last, {f.name} found the {it} {t.spot}.", f"After a while, {f.name} looked {t.spot}. There was the {it}!")
    t.ask((f"Where was the {it}?", f"Where did {f.name} find the {it}?"), f"The {it} was {t.spot}.")
    t.ask(f"Who found the {it}?", f"{f.name} found the {it}.")
    t.say(f'{h.name} was so happy. "Thank you, {f.name}!" {h.they} said.', f'"Thank you!" said {h.name}, and {h.they} hugged {f.name}.')
    t.subjects += [f"a lost {it}", f"{article(h.kind)} who loses {article(it)}", f"{article(h.kind)} who lost {h.their} {it}"]
    t.close(f"{h.name} never lost the {it} again.", f"Then they played with the {it} together until it was dark.",
            f"{h.name} learned that a good friend is worth more than any {it}.")


def sharing(t: Teller) -> None:
    """The hero shares food with somebody hungry, and the numbers add up."""
    h, f = t.hero, t.friend
    food = t.rng.choice(list(FOODS))
    total = t.rng.randint(3, 9)
    given = t.rng.randint(1, total - 1)
    left = total - given
    some = food if given > 1 else FOODS[food]
    rest = food if left > 1 else FOODS[food]
    _day(t)
    t.say(f"{h.name} had {total} {food} in {h.their} bag.", f"{h.name} carried a basket with {total} {food}.")
    t.ask((f"How many {food} did {h.name} have at first?",), f"{h.name} had {total} {food} at first.")
    t.pause()
    t.say(f"On the way, {h.they} met {article(f.kind)} named {f.name}.", f"There {h.they} met {article(f.kind)} named {f.name}.")
    t.ask((f"Who did {h.name} meet?",), f"{h.name} met {article(f.kind)} named {f.name}.")
    t.say(f"{f.name} was sad because {f.they} was hungry.", f'{f.name} looked sad. "I am so hungry," said {f.name}.')
    feeling_why(t, f, "sad", f"{f.they} was hungry")
    t.say(f'"You can have {given} of my {food}," said {h.name}.', f"{h.name} gave {f.them} {given} {some}.",
          f'"Do not be sad," said {h.name}, and gave {f.name} {given} {some}.')
    t.ask((f"How many {food} did {h.name} give to {f.name}?", f"How many {food} did {f.name} get?"),
          f"{h.name} gave {f.name} {given} {some}.")
    t.say(f"Now {h.name} had {left} {rest} left, but {h.they} was happy.", f"{h.name} had {left} {rest} left, and that was enough.")
    t.ask((f"How many {food} did {h.name} have left?", f"How many {food} were left?"), f"{h.name} had {left} {rest} left.")
    t.say(f'"Thank you, {h.name}. You are very kind," said {f.name}.', f'{f.name} smiled and said, "Thank you!"')
    t.subjects += ["sharing", f"{article(h.kind)} who shares {h.their} {food}", food, "being kind"]
    t.knows_friend()
    t.close(_HAPPY_END.format(h=h.name, f=f.name), "They ate together and told each other stories.", "It is good to share.")


def stuck(t: Teller) -> None:
    """The friend is stuck and is pulled out with a tool."""
    h, f = t.hero, t.friend
    where = t.rng.choice(("in a deep hole", "in the mud", "up in a tall tree", "under a heavy branch", "between two rocks"))
    tool = t.rng.choice(("a long rope", "a strong stick", "a ladder", "a blanket"))
    _day(t)
    t.say("Suddenly, somebody called for help.", f'Then {h.they} heard a voice. "Help! Help!"')
    t.say(f"It was {article(f.kind)} named {f.name}, who was stuck {where}.", f"{article(f.kind).capitalize()} named {f.name} was stuck {where}.")
    t.ask((f"Who was stuck {where}?", "Who was stuck?"), f"{f.name} was stuck {where}.")
    t.ask(f"Where was {f.name} stuck?", f"{f.name} was stuck {where}.")
    t.say(f"{f.name} was scared.", f'"I am stuck and I am scared," said {f.name}.')
    feeling_why(t, f, "scared", f"{f.they} was stuck {where}")
    t.pause()
    t.say(f'"Do not be afraid," said {h.name}. "I will help you."', f"{h.name} thought about what to do.")
    t.say(f"{h.name} ran home and came back with {tool}.", f"{h.name} looked around and found {tool}.")
    t.ask((f"What did {h.name} use to help {f.name}?",), f"{h.name} used {tool}.")
    t.say(f"With {tool}, {h.they} helped {f.name} to get out.", f"{h.name} used it, and soon {f.name} was free.")
    t.say(f'"You saved me!" said {f.name}.', f'"Thank you, {h.name}," said {f.name}. "You are so brave."')
    t.ask(f"Who helped {f.name}?", f"{h.name} helped {f.name}.")
    t.say(f"To say thank you, {f.name} gave {h.name} {article(t.color)} {t.thing}.",
          f"The next day, {f.name} brought {h.them} {article(t.color)} {t.thing}.")
    t.ask((f"What did {f.name} give to {h.name}?",), f"{f.name} gave {h.name} {article(t.color)} {t.thing}.")
    t.subjects += [f"{article(f.kind)} who is stuck {where}", "helping", f"{article(h.kind)} who helps {article(f.kind)}"]
    t.thing_facts()
    t.knows_friend()
    t.close(_HAPPY_END.format(h=h.name, f=f.name), "It is good to help others.", f"{h.name} was proud and happy.")


def fear(t: Teller) -> None:
    """The hero is afraid of something, and the friend helps to be brave."""
    h, f = t.hero, t.friend
    what = t.rng.choice(FEARS)
    t.say(f"{h.name} was afraid of {what}.", f"But {h.name} had a secret. {h.they.capitalize()} was afraid of {what}.")
    t.ask((f"What was {h.name} afraid of?",), f"{h.name} was afraid of {what}.")
    t.meet_friend()
    t.pause()
    _day(t)
    t.say(f'{f.name} asked, "Why do you look so scared?"', f'"What is wrong?" asked {f.name}.')
    t.say(f'"I am afraid of {what}," said {h.name}.', f'"I am scared because of {what}," said {h.name}.')
    trick = t.rng.choice(("sing a song", "hold my hand", "close your eyes and count to 3", "think of something nice", "take a deep breath"))
    t.say(f'"When I am afraid, I have a trick," said {f.name}. "You can {trick}."', f'"Then {trick}," said {f.name}. "It helps me too."')
    t.ask((f"What did {f.name} tell {h.name} to do?",), f'{f.name} said, "{trick[0].upper() + trick[1:]}."')
    t.pause()
    t.say(f"{h.name} tried it, and it worked.", f"So {h.name} did it, and {h.they} felt much better.")
    t.say(f"{h.name} was not afraid of {what} any more.", f"From that day on, {h.name} was brave.")
    t.ask(f"Who helped {h.name}?", f"{f.name} helped {h.name}.")
    t.subjects += [f"{article(h.kind)} who is afraid of {what}", "being brave", "being afraid", what]
    t.close(f'"Thank you, {f.name}," said {h.name}, and they both laughed.', "Everybody is afraid sometimes, but a friend helps.",
            f"That night, {h.name} slept very well.")


def quarrel(t: Teller) -> None:
    """Two friends both want the thing; they make up."""
    h, f, it = t.hero, t.friend, t.thing
    t.meet_friend()
    _day(t)
    t.say(f"{f.name} came too.", f"{f.name} went with {h.them}.")
    t.say(f"There they found {article(t.color)} {it} {t.spot}.", f"They saw {article(t.color)} {it} {t.spot}.")
    t.ask("What did they find?", f"They found {article(t.color)} {it}.")
    t.ask((f"Where was the {it}?",), f"The {it} was {t.spot}.")
    t.pause()
    t.say(f'"It is mine!" said {h.name}. "No, it is mine!" said {f.name}.', f"Both {h.name} and {f.name} wanted the {it}.")
    t.say(f"They pulled and pulled until {h.name} fell down.", "They were both angry and did not talk to each other.",
          f"{f.name} was angry and went home.")
    t.ask(("Why were they angry?",), f"They were angry because they both wanted the {it}.")
    t.pause()
    first, second = t.rng.sample((h, f), 2)
    t.say(f"After a while, {first.name} felt bad.", f"Soon {first.name} did not want to be angry any more.")
    t.say(f'"I am sorry," {first.they} said to {second.name}.', f'{first.name} went to {second.name} and said, "I am sorry."')
    t.ask("Who said sorry first?", f"{first.name} said sorry first.")
    t.say(f'"I am sorry too," said {second.name}. "We can take turns."', f'"Let us share the {it}," said {second.name}.')
    t.subjects += ["two friends who quarrel", "saying sorry", f"two friends and {article(it)}"]
    t.thing_facts()
    t.close("So they took turns, and everybody was happy.", f"After that, they played with the {it} together every day.",
            f"A friend is more important than {article(it)}.")


def race(t: Teller) -> None:
    """A race; somebody rests and loses, or helps and wins a friend."""
    h, f = t.hero, t.friend
    t.meet_friend()
    t.say(f'One day, {f.name} said, "Let us run a race to the {t.place}."', f'One morning, {h.name} said, "Who is the first to reach the {t.place}?"')
    t.ask(("Where did they race to?",), f"They raced to the {t.place}.")
    t.say("They started to run.", '"One, two, three, go!" And off they ran.')
    t.pause()
    winner, loser = t.rng.sample((h, f), 2)
    why, told = t.rng.choice((
        (f"{loser.they} fell asleep", f"{loser.name} was very fast, so {loser.they} sat down to rest and fell asleep."),
        (f"{loser.they} stopped to eat {{food}}", f"Half way, {loser.name} saw some {{food}} and stopped to eat them."),
        (f"{loser.they} lost a shoe", f"{loser.name} was in front, but then {loser.they} lost a shoe."),
        (f"{loser.they} took the wrong path", f"{loser.name} was in front, but {loser.they} took the wrong path."),
    ))
    food = t.rng.choice(list(FOODS))
    t.say(told.format(food=food))
    t.say(f"{winner.name} ran on and on and did not stop.", f"But {winner.name} did not give up.")
    t.say(f"So {winner.name} was the first to reach the {t.place}.", f"In the end, {winner.name} won the race.")
    t.ask(("Who won the race?", "Who won?"), f"{winner.name} won the race.")
    t.ask((f"Why did {loser.name} lose the race?", f"Why did {loser.name} lose?"), f"{loser.name} lost because {why.format(food=food)}.")
    t.pause()
    t.say(f'"Well done, {winner.name}," said {loser.name}.', f'"You won," said {loser.name}, and {loser.they} smiled.')
    t.subjects += ["a race", f"a race between {article(h.kind)} and {article(f.kind)}", f"{article(h.kind)} who runs a race"]
    t.close("Then they had a picnic together.", "Slow and steady wins the race.", f"{winner.name} shared the prize with {loser.name}.")


def baking(t: Teller) -> None:
    """Something is missing for the meal, and the friend brings it."""
    h, f = t.hero, t.friend
    dish = t.rng.choice(("a cake", "a soup", "a pie", "some bread", "some pancakes", "a pizza"))
    missing = t.rng.choice(("milk", "flour", "sugar", "salt", "butter", "honey", "water", "cheese"))
    it = "them" if dish.endswith("pancakes") else "it"
    t.say(f"One day, {h.name} wanted to make {dish}.", f"It was {h.whose} birthday, and {h.they} wanted to make {dish}.",
          f"{h.name} was hungry and wanted to make {dish}.")
    t.ask((f"What did {h.name} want to make?",), f"{h.name} wanted to make {dish}.")
    t.say(f"But there was no {missing} in the house.", f'"Oh no, I have no {missing}," said {h.name}.')
    t.ask((f"What did {h.name} need?", "What was missing?"), f"{h.name} needed {missing}.")
    t.pause()
    t.say(f"So {h.they} went to {h.their} friend {f.name}, {article(f.kind)}.", f"So {h.they} asked {h.their} friend {f.name}, {article(f.kind)}, for help.")
    t.ask(f"Who did {h.name} ask for help?", f"{h.name} asked {f.name} for help.")
    t.say(f'"Do you have some {missing}?" asked {h.name}.', f'"Can you give me some {missing}?" {h.they} asked.')
    t.say(f'"Yes, of course," said {f.name}, and gave {h.them} some {missing}.', f'"I have a lot of {missing}," said {f.name}. "Take some."')
    t.say(f"Together they made {dish}.", f"{f.name} came along, and together they made {dish}.")
    t.pause()
    t.say(f"They took {it} to the {t.place} and ate {it} there.", f"Then they sat {t.at(t.place)} and ate {it}.")
    t.ask(("Where did they eat?",), f"They ate {t.at(t.place)}.")
    t.subjects += [dish, f"{article(h.kind)} who makes {dish}", "cooking"]
    t.knows_friend()
    t.close("It was the best meal they ever had.", "It tasted very good.", f'"Everything tastes better with a friend," said {h.name}.')


def planting(t: Teller) -> None:
    """A seed grows because it is looked after."""
    h, f = t.hero, t.friend
    plant = t.rng.choice(("sunflower", "rose", "pumpkin", "tomato", "apple tree", "cherry tree", "bean"))
    t.meet_friend()
    t.say(f"One day, {f.name} gave {h.name} a small seed.", f"One spring day, {h.name} got a small seed from {f.name}.")
    t.ask((f"What did {f.name} give to {h.name}?",), f"{f.name} gave {h.name} a small seed.")
    t.say(f"{h.name} planted the seed {t.at(t.place)}.", f"{h.they.capitalize()} put it into the ground {t.at(t.place)}.")
    t.ask((f"Where did {h.name} plant the seed?",), f"{h.name} planted the seed {t.at(t.place)}.")
    t.pause()
    days = t.rng.randint(3, 9)
    t.say(f"Every day {h.they} gave it water.", f"{h.name} gave it water every morning.")
    t.say(f"For {days} days, nothing happened, and {h.name} was sad.", f"{days} days went by, but there was nothing to see. {h.name} was sad.")
    t.ask((f"How many days did {h.name} wait?",), f"{h.name} waited for {days} days.")
    feeling_why(t, h, "sad", "the seed did not grow")
    t.say(f'"You have to wait," said {f.name}.', f'"Do not give up," said {f.name}. "It needs time."')
    t.pause()
    t.say(f"Then one morning, there was {article(plant)}.", f"And then, one day, {article(plant)} came out of the ground.")
    t.ask(("What grew from the seed?", "What did the seed become?"), f"The seed became {article(plant)}.")
    t.say(f"{h.name} was so happy that {h.they} danced.", f'"Look, {f.name}!" said {h.name}. "It is so beautiful!"')
    t.subjects += [article(plant), "a seed", f"{article(h.kind)} who plants a seed", "a garden"]
    t.close(f"{h.name} learned to wait.", "Good things need time.", f"{h.name} and {f.name} looked at it every day.")


def lonely(t: Teller) -> None:
    """Somebody lonely finds somebody to play with."""
    h, f = t.hero, t.friend
    game = t.rng.choice(GAMES)
    t.say(f"{h.name} was sad because {h.they} had no friends.", f"{h.name} had no friends, and that made {h.them} sad.")
    feeling_why(t, h, "sad", f"{h.they} had no friends")
    t.pause()
    _day(t)
    t.say(f"There {h.they} saw {article(f.kind)} who was all alone.", f"{article(f.kind).capitalize()} was sitting there all alone.")
    t.say(f'"Hello, I am {h.name}. What is your name?" "I am {f.name}," said the {f.kind}.',
          f'"My name is {f.name}," said the {f.kind}. "Who are you?" "I am {h.name}."')
    t.ask((f"Who did {h.name} meet?",), f"{h.name} met {article(f.kind)} named {f.name}.")
    t.say(f'"Do you want to play {game}?" asked {f.name}.', f'"Let us play {game}," said {h.name}.')
    t.ask(("What did they play?",), f"They played {game}.")
    t.say(f"They played {game} all day long.", f"So they played {game} until the sun went down.")
    t.pause()
    t.say(f'"Will you come back tomorrow?" asked {f.name}. "Yes!" said {h.name}.', f'"That was fun," said {f.name}. "Let us meet again tomorrow."')
    t.subjects += ["making friends", "a new friend", f"{article(h.kind)} who has no friends", f"{article(h.kind)} who finds a friend"]
    t.knows_friend()
    t.close(f"{h.name} was not alone any more.", _HAPPY_END.format(h=h.name, f=f.name), f"{h.name} went home with a big smile.")


def noise(t: Teller) -> None:
    """A strange noise in the night is only a friend."""
    h, f = t.hero, t.friend
    sound = t.rng.choice(("a loud bang", "a strange noise", "a soft knock", "a long squeak"))
    reason = t.rng.choice(("could not sleep", "had a bad dream", "was cold", "was hungry", f"wanted to bring back the {t.thing}"))
    t.meet_friend()
    t.say(f"One night, {h.name} heard {sound}.", f"One night, {sound} woke {h.name} up.")
    t.ask((f"What did {h.name} hear?", f"What did {h.name} hear in the night?"), f"{h.name} heard {sound}.")
    t.say(f'"Who is there?" said {h.name}, but nobody answered.', f'"Is it a monster?" thought {h.name}.')
    t.say(f"{h.name} was scared, but {h.they} took a lamp and went to look.", f"{h.they.capitalize()} was scared and hid under the blanket.")
    feeling_why(t, h, "scared", f"{h.they} heard {sound}")
    t.pause()
    t.say(f"Then the door opened, and there was {f.name}!", f"Behind the door stood {f.name}!")
    t.ask(("Who made the noise?", "Who was at the door?"), f"It was {f.name}.")
    t.say(f'"It is only me," said {f.name}. "I {reason.replace("was", "am") if reason.startswith("was") else reason}."')
    t.say(f"{f.name} had come all the way from the {t.place}.", f"{f.they.capitalize()} had walked all the way from the {t.place}.")
    t.ask((f"Where did {f.name} come from?",), f"{f.name} came from the {t.place}.")
    t.ask((f"Why did {f.name} come?",), f"{f.name} came because {f.they} {reason}.")
    t.say(f'{h.name} laughed. "I thought you were a monster!"', f"{h.name} was so glad that {h.they} hugged {f.name}.")
    t.pause()
    t.say(f"{h.name} made some warm milk, and they talked for a long time.", f'"Come in," said {h.name}. "You can stay here tonight."')
    t.subjects += ["a noise in the night", "a night", f"{article(h.kind)} who hears {sound}", "a monster"]
    t.close("Then they both fell asleep.", "It is good to have a friend at night.", f"After that, {h.name} was not scared of the night.")


def bird(t: Teller) -> None:
    """A small animal is found and looked after until it is well."""
    h = t.hero
    what = t.rng.choice(("bird", "kitten", "puppy", "hedgehog", "butterfly", "turtle"))
    wrong, remedy = t.rng.choice((
        ("was cold", "a warm blanket"), ("was hungry", "some food"), ("was thirsty", "some water"),
        ("was tired", "a soft bed"), ("was wet", "a dry towel"),
    ))
    _day(t)
    t.say(f"{t.spot[0].upper() + t.spot[1:]}, {h.they} found a small {what}.", f"There was a small {what} {t.spot}.")
    t.ask((f"What did {h.name} find?",), f"{h.name} found a small {what}.")
    t.ask((f"Where was the {what}?",), f"The {what} was {t.spot}.")
    t.say(f"It {wrong} and could not go home.", f"The {what} {wrong} and very weak.")
    t.ask((f"What was wrong with the {what}?",), f"The {what} {wrong}.")
    t.say(f'"You poor little thing," said {h.name}.', f'"I will take care of you," said {h.name}.')
    t.pause()
    t.say(f"{h.name} took it home and gave it {remedy}.", f"{h.they.capitalize()} carried it home in {h.their} arms and gave it {remedy}.")
    t.ask((f"What did {h.name} give to the {what}?",), f"{h.name} gave it {remedy}.")
    days = t.rng.randint(2, 9)
    t.say(f"After {days} days, the {what} was well again.", f"{days} days later, the {what} was strong and happy.")
    t.ask((f"When was the {what} well again?",), f"The {what} was well again after {days} days.")
    t.pause()
    end = t.rng.choice(("went", "stayed"))
    if end == "went":
        t.say(f"{h.name} brought it back to the {t.place} and said goodbye.", f"Then the {what} went home to its family.")
        t.say(f"{h.name} was a little sad, but also proud.", f'"Come and visit me," said {h.name}.')
    else:
        t.say(f"But the {what} did not want to leave, so it stayed with {h.name}.", f"The {what} stayed with {h.name} for ever.")
        t.say(f"{h.name} called it {t.friend.name}.")
        t.ask((f"What did {h.name} call the {what}?",), f"{h.name} called it {t.friend.name}.")
    t.subjects += [f"a small {what}", f"{article(h.kind)} who finds a {what}", f"a {what}", "helping"]
    t.close("It is good to be kind to those who are small.", f"{h.name} had a warm heart.", f"Everybody was proud of {h.name}.")


def rain(t: Teller) -> None:
    """The weather spoils the plan, and another plan turns out better."""
    h, f = t.hero, t.friend
    bad, out = t.rng.choice((("rain", "the sun came out"), ("snow", "the snow stopped"), ("storm", "the storm was over")))
    inside = t.rng.choice(("read a book", "built a tent", "painted a picture", "told stories", "made a puzzle", "sang songs"))
    t.meet_friend()
    t.say(f"One day, {h.name} and {f.name} wanted to go to the {t.place}.", f'"Let us go to the {t.place}," said {h.name} to {f.name} one day.')
    t.ask(("Where did they want to go?",), f"They wanted to go to the {t.place}.")
    began = {"rain": "it began to rain", "snow": "it began to snow", "storm": "a storm came"}[bad]
    t.say(f"But then {began}, and they had to stay at home.", f"But {began}, so they could not go.")
    t.ask((f"Why could they not go to the {t.place}?", "Why did they stay at home?"), f"They stayed at home because {began}.")
    t.say(f"{f.name} was sad.", f'"What a pity," said {f.name}. {f.they.capitalize()} was sad.')
    feeling_why(t, f, "sad", f"they could not go to the {t.place}")
    t.pause()
    t.say(f'Then {h.name} had an idea. "We can have fun here too."', f'"I have an idea," said {h.name}.')
    t.say(f"So they sat by the window and {inside}.", f"They {inside} and laughed a lot.")
    t.ask(("What did they do at home?",), f"They {inside}.")
    t.pause()
    t.say(f"When {out}, they did not even see it.", f"In the evening {out}, and they went to the {t.place} after all.")
    t.subjects += [f"the {bad}", f"a day of {bad}" if bad != "storm" else "a storm", f"{article(h.kind)} on a bad day"]
    t.close("It was the best day of the week.", f'"That was even better," said {f.name}.', "A good friend makes every day a good day.")


def swap(t: Teller) -> None:
    """A trade at the market that makes both glad."""
    h, f = t.hero, t.friend
    other = t.rng.choice([x for x in ("hat", "drum", "lamp", "kite", "flute", "map", "ring", "book") if x != t.thing])
    t.own_thing()
    t.say(f"But {h.name} really wanted {article(other)}.", f"But more than that, {h.they} wanted {article(other)}.")
    t.ask((f"What did {h.name} want?",), f"{h.name} wanted {article(other)}.")
    t.pause()
    _day(t)
    t.say(f"There {h.they} met {article(f.kind)} named {f.name}, who had {article(other)}.",
          f"{article(f.kind).capitalize()} named {f.name} was there, with {article(other)}.")
    t.ask((f"Who had {article(other)}?",), f"{f.name} had {article(other)}.")
    t.say(f'"What a nice {t.thing}," said {f.name}. "I always wanted one."', f"{f.name} looked at the {t.color} {t.thing} for a long time.")
    t.say(f'"Let us trade," said {h.name}. "I give you my {t.thing} and you give me your {other}."', f'"Do you want to trade?" asked {h.name}.')
    t.say(f'"Yes!" said {f.name}.', f"{f.name} said yes at once.")
    t.say(f"So {h.name} got the {other}, and {f.name} got the {t.thing}.", f"So {f.name} got the {t.thing}, and {h.name} got the {other}.")
    t.ask((f"What did {h.name} get?",), f"{h.name} got the {other}.")
    t.ask((f"What did {f.name} get?",), f"{f.name} got the {t.thing}.")
    t.subjects += ["a trade", f"{article(t.thing)} and {article(other)}", f"{article(h.kind)} who wants {article(other)}"]
    t.close("Both of them went home happy.", "A fair trade makes two people happy.", f"{h.name} and {f.name} became good friends.")


def hidden(t: Teller) -> None:
    """A map, a search, a treasure, a choice."""
    h, f = t.hero, t.friend
    inside = t.rng.choice(("gold coins", "old books", "sweet cookies", "shiny stones", "beautiful shells", "warm blankets"))
    spot = t.rng.choice([s for s in SPOTS if "bed" not in s and "door" not in s])
    t.meet_friend()
    t.say(f"One day, {h.name} found an old map.", f"One day, {f.name} gave {h.name} an old map.")
    t.say(f"It showed a way to the {t.place}.", f"On the map there was a big cross {t.at(t.place)}.")
    t.ask("What did the map show?", f"The map showed the way to the {t.place}.")
    t.say(f'"It must be a treasure!" said {f.name}.', f'"Let us look for the treasure," said {h.name}.')
    t.pause()
    t.say(f"They walked for {t.rng.randint(2, 9)} hours until they reached the {t.place}.", f"So they went to the {t.place} together.")
    t.ask(("Where did they go?",), f"They went to the {t.place}.")
    t.say(f"There, {spot}, stood {article(t.color)} box.", f"They looked around and saw {article(t.color)} box {spot}.")
    t.ask("What color was the box?", f"The box was {t.color}.")
    t.ask("Where was the box?", f"The box was {spot}.")
    t.say(f"{h.name} opened it. It was full of {inside}.", f"In the box there were {inside}.")
    t.ask(("What was in the box?",), f"There were {inside} in the box.")
    t.pause()
    t.say(f'"Half for you and half for me," said {h.name}.', f'"We can give some to everybody at home," said {f.name}.')
    t.subjects += ["a treasure", "an old map", f"{article(h.kind)} who finds a treasure", f"{article(h.kind)} who finds a map"]
    t.close("It was a wonderful adventure.", "They were tired but very happy.", "But the best treasure was their friendship.")


PLOTS: dict[str, Callable[[Teller], None]] = {
    p.__name__: p
    for p in (lost, sharing, stuck, fear, quarrel, race, baking, planting, lonely, noise, bird, rain, swap, hidden)
}
