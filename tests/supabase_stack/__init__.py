"""A Supabase project of the tests' own: real Postgres with pgvector, and a gateway that answers as PostgREST does."""
