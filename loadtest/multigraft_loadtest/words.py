"""Common English words, each one token in most vocabularies, so that so many words make about so many tokens."""

from __future__ import annotations

WORDS: tuple[str, ...] = tuple(
    """
    that with from this have your their they will which more other about were also part them into these some
    self when time under there than over know people like year such been help what would need through work
    import most develop many used only first child system between learn where could health should well every
    high world even form water sign just make years disc data call then result those each because effect
    while process during found count long after cent return read using lead fact test life very being find
    right person back both follow writ does grow much main before level study great food start good might
    school within class often around made said show same power design again small allow care less example
    down take support quest human treat state called point number build play though prof body must plan
    common want three cell pass social method known real without public still change better prom hand
    another report place present project list product feel light energy open mean keep others best include
    direct name history create perform home stand move among mark look things type large think against group
    means rest control here several based women family object current program early focus access last turn
    fore success making print impact certain period mill land blood case since local head post along value
    order occur come text cost times areas cause able problem systems view major course model else prevent
    invest hard tool special species future natural plant complex role until second country young works
    always suggest exist levels step today given strong little results range ways book next percent flow
    four similar short working past space amount free concept heart later author needs words give paper kind
    mind having skills field begin parent expect cells changes issues story upon require whether types
    enough likely record usually days address away ever going left path account employ higher growth century
    collect full super situ connect fund science never side brain however plants term unique ground groups
    above event least subject sound near modern studies really rather effects reason quality nature loss
    pattern cases detail size hold someone lower general factors million comes already student global word
    simple city living single members wind source respect either once seen thought deep house done team file
    helps created fail aspect engine online live fall methods medical market needed action animals idea sent
    quick reduce target break soft surface popular color ensure writing rights mass parts values port
    climate share rate came friends stress clear below image whole meaning healthy events context ability
    taken music money avoid related instead states taking tell culture allows review article cannot site
    five white reading check tools except doing skin clean sense week love weight measure offer content true
    accept matter black draw regular parents green terms capt stories region fish select months face forms
    total unit company hours reflect almost half service soil recent claim farm contact thing sources commit
    link close sleep easy extra heat spread travel built aware started issue greater stop written outside
    models
    """.split()
)
