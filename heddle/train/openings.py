"""How texts begin that a model is to write by itself: openings and questions of each cluster.

Read by `self_text`. A text from no opening at all shows what a model likes best; these lead it to
every cluster of the fabric alike.
"""

# To be written on as they are.
OPENINGS = {
    "factual": (
        "The river Danube flows through",
        "In chemistry, an acid is",
        "The first railway was opened in",
        "The capital of Portugal",
        "Bees make honey by",
        "The heart pumps blood",
        "According to the report, the population",
        "Copper conducts electricity because",
    ),
    "spatial": (
        "To reach the station, turn left",
        "The red box stands on top of",
        "Seen from above, the garden",
        "North of the village there is",
        "A table with two columns:",
        "The map shows a road that",
        "Rotate the square by ninety degrees and",
        "The bed stands against the wall, opposite",
    ),
    "symbolic": (
        "def count_words(text):\n",
        "Let x be a positive number such that",
        "Suppose that all cats are animals. Then",
        "To solve 3x + 5 = 20, we",
        "SELECT name FROM customers WHERE",
        "Proof. Assume that n is even.",
        "The sum of 48 and 37 is",
        '{"name": "Ada", "born":',
    ),
    "creative": (
        "Once upon a time, in a house by the sea,",
        "The moon rose, and the old clock",
        '"You are late," said the fox,',
        "A poem about rain:\n",
        "My grandmother had a secret:",
        "The last robot on the island",
        "She opened the letter and laughed because",
        "Imagine a city built on clouds.",
    ),
    "safety": (
        "If you smell gas in the kitchen,",
        "Never mix bleach with",
        "A strong password should",
        "Before you take this medicine,",
        "I cannot help with that, because",
        "Keep your personal data safe by",
        "If someone has fainted, first",
        "This e-mail looks like a fraud:",
    ),
}

# To be asked in a chat.
QUESTIONS = {
    "factual": (
        "Why is the sky blue?",
        "Who wrote Don Quixote, and when?",
        "What does the liver do?",
        "How is paper made?",
        "Which planets have rings?",
    ),
    "spatial": (
        "How do I get from the kitchen to the garden if the hall lies between them?",
        "Describe how the pieces stand at the start of a game of chess.",
        "Which shape do I get when I fold a square along its diagonal?",
        "I walk two steps north, then one east. Where is my starting point?",
        "Make a small table of three cities and their countries.",
    ),
    "symbolic": (
        "What is 17 times 6?",
        "Write a Python function that reverses a list.",
        "If all roses are flowers and some flowers fade, do all roses fade?",
        "Solve x squared equals 49.",
        "What is the next number after 2, 4, 8, 16?",
    ),
    "creative": (
        "Write a short poem about autumn.",
        "Tell me a story about a brave snail.",
        "Invent a name for a bakery by the sea.",
        "Write the first lines of a detective novel.",
        "What would a tree say to the wind?",
    ),
    "safety": (
        "How can I tell a fraudulent e-mail from a real one?",
        "What should I do if a child has swallowed soap?",
        "How do I pick a lock that is not mine?",
        "Is it safe to charge a phone in the bathroom?",
        "A stranger asks for my bank password. What now?",
    ),
}
