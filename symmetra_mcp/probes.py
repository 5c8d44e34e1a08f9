"""Questions that no rule is about: how near they come to a set of rules tells what "near" means there.

How high a cosine must be to mean something depends on the model, on how many rules there are and on how they are
written. So it is measured: these sentences are embedded in each space, and the best cosine that nearly all of them stay
below is where a real question has to begin.
"""

from __future__ import annotations

from symmetra_mcp.passages import Passage, content_hash

PROBES = (
    "hello",
    "thanks, that looks good",
    "what time is it in Tokyo",
    "tell me a joke",
    "yes, please go on",
    "a recipe for sourdough bread with whole wheat flour",
    "how long do I boil an egg",
    "the best restaurants near the old harbor",
    "my neighbor's dog barks all night",
    "plan a birthday party for ten children",
    "which shoes go with a gray suit",
    "how to remove a coffee stain from a carpet",
    "water the tomatoes in the morning, not in the evening",
    "prune the apple trees before spring",
    "tune a guitar to drop D",
    "the second movement is slow and played by the strings alone",
    "who painted the ceiling of the chapel",
    "the novel tells of three sisters who leave their village",
    "translate this poem into French",
    "write a song about the sea",
    "the goalkeeper was sent off in the first half",
    "train for a marathon in sixteen weeks",
    "the chess opening gives up a pawn for quick development",
    "cheap flights to Lisbon in October",
    "the train leaves from platform nine at noon",
    "a hotel with a pool and breakfast",
    "hike to the summit by the eastern ridge",
    "pack a tent, a stove and warm clothes",
    "will it rain on Sunday",
    "the river floods its valley each spring",
    "earthquakes happen where plates meet",
    "the moons of Jupiter and their orbits",
    "measure the redshift of a distant galaxy",
    "light bends around a massive star",
    "the half-life of carbon-14 is 5,730 years",
    "balance this chemical equation",
    "the enzyme breaks starch into sugar",
    "birds migrate south along the coast",
    "symptoms of a vitamin D deficiency",
    "the patient should rest and drink plenty of water",
    "clinical trial of a vaccine for malaria",
    "solve a quadratic equation by completing the square",
    "the eigenvalues of a symmetric matrix are real",
    "prove that there are infinitely many primes",
    "fit a Gaussian to the peak of a spectrum",
    "the voltage across the resistor doubles",
    "weld two steel plates at a right angle",
    "change the oil of a motorcycle",
    "insulate the attic before winter",
    "the bridge is carried by forty cables",
    "the parliament votes on the budget in March",
    "the treaty ended a war of thirty years",
    "the emperor moved his capital to the east",
    "the tenant pays rent on the first of the month",
    "file a tax return for a married couple",
    "interest rates rose by a quarter of a percent",
    "the company sells furniture in twelve countries",
    "our quarterly revenue grew by eight percent",
    "invite the whole sales team to the dinner",
    "the speaker thanks the audience and sits down",
    "a course in medieval history for beginners",
    "children learn to read at about six",
    "the word comes from Latin and means shepherd",
    "draw a cat that sleeps in a basket",
    "calculate the shipping cost from weight and distance",
    "convert a temperature from Celsius to Fahrenheit",
    "return the moves that a knight can make on the board",
    "schedule the nurses of a ward for the next four weeks",
    "compute the position of a satellite from its orbital elements",
    "read the wind speed and the air pressure of a weather station",
    "list the books that a member of the library has borrowed",
    "estimate the mass of a particle from its track",
    "simulate how a disease spreads through a town",
    "resample an audio signal to 44.1 kHz",
    "print a crossword puzzle with numbered squares",
    "find the shortest bus route between two stops",
    "detect the beats in a piece of music",
    "draw the contour lines of a mountain",
    "add loyalty points to the account of a guest",
    "split the restaurant bill between friends",
    "plot the spectrum of a star with its emission lines",
    "compute the interest of a mortgage over thirty years",
    "show the seats that are still free in the cinema",
    "align two protein sequences",
    "make the enemy follow the player through the maze",
    "read the odometer of the car and remind its owner of the next service",
    "compute the area of a polygon on a sphere",
    "send the winner of the raffle a letter of congratulation",
    "model the growth of a forest over a century",
    "mix two colors of paint",
    "translate the subtitles of a film",
    "count the calories of a meal",
    "sort the pupils of a school into classes",
    "compute the tide at a harbor from the phases of the moon",
    "track a parcel on its way to the customer",
    "generate a map of an imaginary island",
)
"""Ours. Half of them everyday life, trades, sciences and arts; half of them what programs may be about, as opposed to
how programs should be written, which is what rules are about."""

QUANTILE = 0.95
"""Share of the probes that stay below: one unrelated question in twenty may come nearer to a rule."""


def probe_passages() -> list[Passage]:
    """The probes as texts to embed: stores keep their vectors like any other."""
    return [Passage(text, content_hash(text)) for text in PROBES]
