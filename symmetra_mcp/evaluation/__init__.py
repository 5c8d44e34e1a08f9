"""How good searches are: questions with the rules that answer them, asked and scored."""
