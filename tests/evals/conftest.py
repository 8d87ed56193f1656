from tests.serving import server_url as server_url
